"""Doors to folders of a test, behind the four methods of `KnitClient` that the API calls."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from uuid import UUID

from knit_workflows.client import OpenTransfer
from knit_workflows.contracts.transfers import Closed
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.runs import RunStatus
from knit_workflows.domain.tags import Tag
from tests.api.fake_store import FakeStore, new_id


class FakeTransfers:
    """Opens and ends transfers at once; what is to fail is set by the test."""

    def __init__(self, store: FakeStore, root: Path) -> None:
        self._store = store
        self.root = root
        self.open: dict[str, OpenTransfer] = {}
        self.ended: list[tuple[str, bool, str]] = []
        self.renewals = 0
        self.endpoint: tuple[str, str] | None = None
        """Endpoint and token of an agent, in place of folders."""
        self.broken: Exception | None = None
        self.finish_errors: list[Exception] = []
        """Raised one after another by `finish`, before it begins to succeed."""

    def folder(self, knit_id: str) -> Path:
        return self.root / knit_id

    @property
    def failures(self) -> list[str]:
        return [reason for _, ok, reason in self.ended if not ok]

    async def ping(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def open_upload(self, _: UUID | None = None) -> OpenTransfer:
        await self.ping()
        run = self._store.add_run(RunStatus.RUNNING)
        knit_id = run.outputs[0].knit_id
        assert knit_id is not None
        self.folder(knit_id).mkdir(parents=True)
        return self._opened(knit_id, run.summary.run_id)

    async def open_download(self, knit_id: KnitId) -> OpenTransfer:
        await self.ping()
        await self._store.data.get(knit_id)
        return self._opened(knit_id, None)

    async def renew(self, transfer: OpenTransfer) -> None:
        self.renewals += 1

    async def finish(self, transfer: OpenTransfer, *, ok: bool, reason: str = "") -> Closed:
        await asyncio.sleep(0.02)  # as the real one does: who looks too early finds nothing
        if self.finish_errors:
            raise self.finish_errors.pop(0)
        self.open.pop(transfer.transfer_id, None)
        self.ended.append((transfer.transfer_id, ok, reason))
        if transfer.run_id is None:
            return Closed()
        if self._store.run_details[transfer.run_id].summary.status is not RunStatus.RUNNING:
            return Closed(status="failed")
        self._store.set_status(transfer.run_id, RunStatus.DONE if ok else RunStatus.FAILED)
        if ok:
            one = self._store.things[transfer.knit_id]
            stamp = Tag("knit#timestamp", "2026-01-02T03:04:05.678+00:00")
            tags = tuple(sorted({*one.tags, stamp}))
            self._store.things[transfer.knit_id] = dataclasses.replace(one, tags=tags)
        return Closed(status="done" if ok else "failed")

    def _opened(self, knit_id: KnitId, run_id: RunId | None) -> OpenTransfer:
        transfer = OpenTransfer(new_id(), knit_id, run_id)
        url, token = self.endpoint or (self.folder(knit_id).as_uri(), "")
        self._store.records[transfer.transfer_id] = TransferRecord(
            transfer_id=transfer.transfer_id,
            knit_id=knit_id,
            run_id=run_id or RunId(""),
            volume="",
            mode="write" if run_id else "read",
            token=token,
            endpoint=url,
        )
        self.open[transfer.transfer_id] = transfer
        return transfer
