"""Transfers of folders of a test, behind the methods of `KnitClient` that the API calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from knit_workflows.activities.trials import ComputeTrialActivities
from knit_workflows.activities.volumes import ComputeVolumeActivities
from knit_workflows.client import TransferHandle, upload_for_key
from knit_workflows.compute.memory import MemoryBackend
from knit_workflows.contracts.hook_test import HookTestResult
from knit_workflows.contracts.transfers import Closed
from knit_workflows.contracts.trials import TrialResult, TryPlan
from knit_workflows.contracts.volumes import LookAtVolumes, Question, VolumeAnswer
from knit_workflows.domain.errors import IdempotencyKeyConsumed, UploadInProgress
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import USER, RunStatus
from tests.memory_store import MemoryStore

UNKNOWN = "00000000-0000-4000-8000-000000000000"
"""An id, but of nothing."""


class FakeTransfers:
    """Opens and ends transfers at once; what is to fail is set by the test."""

    def __init__(self, store: MemoryStore, root: Path, *, delay: float = 0.02) -> None:
        self._store = store
        self._delay = delay
        """How long the end of a transfer takes: who looks too early finds nothing."""
        self.root = root
        self.sizes: dict[str, int] = {}
        """What volumes take up, by name."""
        self.backend = MemoryBackend(folder=root)
        """Looked at by what asks about volumes; transfers know nothing of it."""
        self._looking = ComputeVolumeActivities(self.backend)
        self._trying = ComputeTrialActivities(self.backend)
        self.trial: TrialResult | None = None
        """What the back-end says of any Plan; None: what `backend` says."""
        self.open: dict[str, TransferHandle] = {}
        self.ended: list[tuple[str, bool, str]] = []
        self.renewals = 0
        self.endpoint: tuple[str, str] | None = None
        """Endpoint and token of an agent, in place of folders."""
        self.broken: Exception | None = None
        self.finish_errors: list[Exception] = []
        """Raised one after another by `finish`, before it begins to succeed."""
        self.told: list[tuple[RunId, int]] = []
        """Runs and generations that were told that a hook was skipped."""
        self.tested: list[tuple[str, HookPhase]] = []
        self.hook_answer = HookTestResult(
            succeeded=True, text="fine", duration=timedelta(milliseconds=31), status_code=200
        )
        """What becomes of the test of a hook."""

    def folder(self, knit_id: str) -> Path:
        return self.root / knit_id

    @property
    def failures(self) -> list[str]:
        return [reason for _, ok, reason in self.ended if not ok]

    async def ping(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def open_upload(self, key: UUID | None = None, *, actor: str = USER) -> TransferHandle:
        await self.ping()
        transfer = upload_for_key(key or uuid4())
        if transfer.transfer_id in self.open:
            raise UploadInProgress(see=transfer.run_id or "")
        if any(transfer.transfer_id == ended for ended, _, _ in self.ended):
            raise IdempotencyKeyConsumed(see=transfer.run_id or "")
        assert transfer.run_id is not None
        await self._store.transfers.begin_upload(
            transfer.transfer_id, transfer.run_id, transfer.knit_id, actor=actor
        )
        self.folder(transfer.knit_id).mkdir(parents=True)
        return await self._opened(transfer)

    async def open_download(self, knit_id: KnitId) -> TransferHandle:
        await self.ping()
        transfer = TransferHandle(uuid4().hex, knit_id, None)
        await self._store.transfers.begin_download(transfer.transfer_id, knit_id)
        return await self._opened(transfer)

    async def renew(self, transfer: TransferHandle) -> None:
        self.renewals += 1

    async def finish(self, transfer: TransferHandle, *, ok: bool, reason: str = "") -> Closed:
        if self._delay:
            await asyncio.sleep(self._delay)
        if self.finish_errors:
            raise self.finish_errors.pop(0)
        self.open.pop(transfer.transfer_id, None)
        self.ended.append((transfer.transfer_id, ok, reason))
        await self._store.transfers.closed(transfer.transfer_id)
        if transfer.run_id is None:
            return Closed()
        key, target = RunKey(transfer.run_id, 1), RunStatus.COMPLETING if ok else RunStatus.ABORTING
        await self._store.execution.advance(key, target, cause=reason or "uploaded")
        status = await self._store.execution.finalize(key, cause="closed")
        return Closed(status=status.value)

    async def hook_skipped(self, run_id: RunId, generation: int) -> None:
        await self.ping()
        self.told.append((run_id, generation))

    async def test_hook(self, url: str, phase: HookPhase) -> HookTestResult:
        await self.ping()
        self.tested.append((url, phase))
        return self.hook_answer

    async def try_plan(self, document: Mapping[str, Any]) -> TrialResult:
        await self.ping()
        return self.trial or await self._trying.result(TryPlan(document=dict(document)))

    async def look_at_volumes(
        self, question: Question, volumes: Sequence[str]
    ) -> list[VolumeAnswer]:
        await self.ping()
        if question == "bytes":
            return [VolumeAnswer(name=name, bytes=self.sizes.get(name)) for name in volumes]
        answers = await self._looking.answers(LookAtVolumes(question=question, names=list(volumes)))
        return answers.volumes

    async def _opened(self, transfer: TransferHandle) -> TransferHandle:
        records = self._store.memory.transfers
        adopted = self._store.memory.data[transfer.knit_id].adopted_volume
        folder = Path(adopted) if adopted else self.folder(transfer.knit_id)
        url, token = self.endpoint or (folder.as_uri(), "")
        await self._store.transfers.opened(transfer.transfer_id, url)
        records[transfer.transfer_id] = replace(records[transfer.transfer_id], token=token)
        self.open[transfer.transfer_id] = transfer
        return transfer
