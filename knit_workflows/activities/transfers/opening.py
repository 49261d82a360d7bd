"""Opens a transfer step by step, again and again, until it is open, refused, or out of time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.compute.base import ComputeBackend, Transfer, TransferMode
from knit_workflows.contracts.transfers import Opened, OpenTransfer
from knit_workflows.domain.errors import (
    Conflict,
    KnitError,
    NotFound,
    StorageFull,
    StoreFull,
    Unavailable,
)
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import (
    RunExecutionStore,
    RunKey,
    TransferRecord,
    TransferStore,
)
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.volumes import Volume

FULL_DISKS: Final = (StorageFull, StoreFull)
"""Errors that go away, but not while a client waits."""
_SHORTEST: Final = 0.1
_LONGEST: Final = 4.0
"""Seconds between two looks: every look costs the back-end some requests."""
_SHARE: Final = 0.1
"""A pause is that part of the time that has passed: what opens soon is seen soon."""
_QUICK: Final = timedelta(seconds=3)
"""What has been opening for less is not looked up in the store again."""


class Opening:
    """One transfer that is being opened; of several attempts on different workers, each has one.

    `before` is the time from when the first of them was asked for to the beginning of this one, by
    Temporal's clock alone: the worker's may differ from it by minutes.
    """

    def __init__(
        self,
        request: OpenTransfer,
        before: timedelta,
        store: TransferStore,
        execution: RunExecutionStore,
        backend: ComputeBackend,
        idle: timedelta,
    ) -> None:
        self._request = request
        self._before = before
        self._began = time.monotonic()
        self._store = store
        self._execution = execution
        self._backend = backend
        self._idle = idle
        self._record: TransferRecord | None = None
        self._has_volume = request.mode == "read"

    @property
    def passed(self) -> timedelta:
        """How long it has been opening."""
        return self._before + timedelta(seconds=time.monotonic() - self._began)

    @property
    def pause(self) -> float:
        """Seconds until the next step."""
        return min(max(_SHORTEST, self.passed.total_seconds() * _SHARE), _LONGEST)

    async def step(self) -> None:
        """Returns once the transfer is open and its endpoint in the store.

        Raises:
            Unavailable: it is not open yet; call again.
            KnitError: it will never be.
        """
        record = await self._recorded()
        if not self._has_volume:
            await self._backend.create_volume(volume_of(record))
            self._has_volume = True
        endpoint = await self._backend.open_transfer(transfer_of(record, self._idle))
        await self._store.opened(record.transfer_id, endpoint.url)

    async def require_wanted(self) -> None:
        """Raises Conflict if the transfer has been ended by others meanwhile."""
        if self._record is None or self.passed < _QUICK:
            return
        try:
            await self._store.get(self._request.transfer_id)
        except NotFound as gone:
            raise Conflict(
                "the transfer was not open yet when its Data was discarded: its Run was retried "
                "or deleted",
                advice="look at the Run: knit run show",
                see=self._request.knit_id,
            ) from gone
        if self._request.run_id:
            run = await self._execution.spec(RunKey(RunId(self._request.run_id), 1))
            if run.status is not RunStatus.RUNNING:
                raise Conflict(
                    "the upload was stopped before it could begin",
                    advice="push again",
                    see=self._request.run_id,
                )

    @property
    def endpoint_id(self) -> str:
        """What it shares with others that read the Data; empty if nothing, or not known yet."""
        return "" if self._record is None else self._record.endpoint_id

    @property
    def took_warm_volume(self) -> bool:
        """Whether it is an upload into a volume that waited for one."""
        record = self._record
        return record is not None and record.mode == "write" and _is_warm(record)

    @property
    def is_over(self) -> bool:
        """Whether it should be open by now."""
        return self.passed >= self._request.within

    def too_late(self, last: KnitError) -> Opened:
        """Gives the answer when the time is over, with the last reason."""
        seconds = f"{self._request.within.total_seconds():g} s"
        return refusal(
            type(last)(
                f"the way to the Data was not ready within {seconds}: {last.reason}",
                advice=last.advice,
            )
        )

    async def _recorded(self) -> TransferRecord:
        request, knit_id = self._request, KnitId(self._request.knit_id)
        if self._record is not None:
            return self._record
        if request.mode == "write":
            await self._backend.require_room()
            self._record = await self._store.begin_upload(
                request.transfer_id, RunId(request.run_id), knit_id, actor=request.actor
            )
        else:
            self._record = await self._store.begin_download(request.transfer_id, knit_id)
        return self._record


def passes(error: KnitError) -> bool:
    """Says whether it may go well in a moment."""
    return isinstance(error, Unavailable) and not isinstance(error, FULL_DISKS)


def refusal(error: KnitError) -> Opened:
    """Gives the answer to a client whose transfer is not opened."""
    return Opened(ok=False, kind=type(error).__name__, reason=error.reason, advice=error.advice)


def transfer_of(record: TransferRecord, idle: timedelta) -> Transfer:
    """Gives a transfer as the back-end knows it."""
    mode = TransferMode(record.mode)
    name = names.transfer(record.knit_id, mode, record.endpoint_id or record.transfer_id)
    if mode is TransferMode.WRITE and _is_warm(record):
        name = names.warm_transfer(record.volume)
    return Transfer(
        name=name,
        volume=volume_of(record),
        mode=mode,
        token=record.token,
        idle=idle,
    )


def _is_warm(record: TransferRecord) -> bool:
    return names.is_warm(record.volume, record.knit_id)


def volume_of(record: TransferRecord) -> Volume:
    """Gives the volume that a transfer fills or reads."""
    return Volume(name=record.volume, knit_id=record.knit_id)
