"""The activities of `knit.Transfer`: the rows of a transfer, its volume and its endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from temporalio import activity

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.compute.base import ComputeBackend, Transfer, TransferMode
from knit_workflows.contracts.transfers import (
    Closed,
    CloseTransfer,
    Opened,
    OpenTransfer,
    TransferActivities,
)
from knit_workflows.domain.errors import (
    KnitError,
    NotFound,
    StorageFull,
    StoreFull,
    TransferNotReady,
    Unavailable,
)
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import NOT_ENDED
from knit_workflows.domain.ports import (
    RunExecutionStore,
    RunKey,
    TransferRecord,
    TransferStore,
    UnfinishedImport,
)
from knit_workflows.domain.runs import Exit, RunStatus
from knit_workflows.domain.volumes import Volume

log = logging.getLogger(__name__)

OPEN_RETRY_INTERVAL: Final = timedelta(milliseconds=100)
"""How soon a transfer that is not ready yet is opened again."""
BROKEN_CODE: Final = 1
FULL_DISKS: Final = (StorageFull, StoreFull)
"""Errors that go away, but not while a client waits."""


class ComputeTransferActivities(TransferActivities):
    """The activities of `knit.Transfer`, on a store and a compute back-end."""

    def __init__(
        self,
        store: TransferStore,
        execution: RunExecutionStore,
        backend: ComputeBackend,
        idle: timedelta,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """`taken` is called when an upload may have taken a volume that waited for one."""
        self._taken = taken
        self._store = store
        self._execution = execution
        self._backend = backend
        self._idle = idle

    @activity.defn(name="knit.open_transfer")
    async def open_transfer(self, request: OpenTransfer) -> Opened:
        """Makes the rows and the volume, opens the transfer, records its endpoint.

        Failures that a retry cannot mend are a result, not an error, because a client is waiting;
        a full disk is one of them.
        """
        async with heartbeating():
            try:
                if request.mode == "write":
                    await self._backend.require_room()
                record = await self._record(request)
                if request.mode == "write":
                    await self._backend.create_volume(_volume(record))
                endpoint = await self._open(record)
                await self._store.opened(record.transfer_id, endpoint)
            except KnitError as error:
                if isinstance(error, Unavailable) and not isinstance(error, FULL_DISKS):
                    with translated():
                        raise
                return Opened(
                    ok=False, kind=type(error).__name__, reason=error.reason, advice=error.advice
                )
        return Opened(ok=True)

    @activity.defn(name="knit.close_transfer")
    async def close_transfer(self, request: CloseTransfer) -> Closed:
        """Finalizes the upload, closes the transfer, removes its row. May be repeated."""
        with translated():
            async with heartbeating():
                return await self.close(request)

    async def close(self, request: CloseTransfer) -> Closed:
        """Does the work of `close_transfer`; for other activities too."""
        status = await self._finalize_upload(request) if request.run_id else ""
        try:
            record = await self._store.get(request.transfer_id)
        except NotFound:
            return Closed(status=status)
        await self._backend.close_transfer(self._transfer(record))
        await self._store.closed(request.transfer_id)
        return Closed(status=status)

    async def _record(self, request: OpenTransfer) -> TransferRecord:
        knit_id = KnitId(request.knit_id)
        if request.mode == "write":
            record = await self._store.begin_upload(
                request.transfer_id, RunId(request.run_id), knit_id, actor=request.actor
            )
            if names.is_warm(record.volume, record.knit_id):
                self._taken()
            return record
        return await self._store.begin_download(request.transfer_id, knit_id)

    async def _open(self, record: TransferRecord) -> str:
        while True:
            try:
                endpoint = await self._backend.open_transfer(self._transfer(record))
            except TransferNotReady:
                await asyncio.sleep(OPEN_RETRY_INTERVAL.total_seconds())
                continue
            return endpoint.url

    async def _finalize_upload(self, request: CloseTransfer) -> str:
        key = RunKey(RunId(request.run_id), 1)
        try:
            await self._execution.advance(
                key,
                RunStatus.COMPLETING if request.ok else RunStatus.ABORTING,
                cause="upload finished" if request.ok else "upload broken",
                exit=None if request.ok else Exit(BROKEN_CODE, request.reason),
            )
            status = await self._execution.finalize(key, cause="upload ended")
        except NotFound:
            return ""  # The transfer could not be opened: it has not even a row.
        log.info(
            "upload is %s",
            status,
            extra={"action": "run_status", "run_id": key.run_id, "status": str(status)},
        )
        return status

    async def end_import(self, one: UnfinishedImport) -> None:
        """Fails an import that was not ended in time, or finishes one that was. May be repeated.

        While hooks are in force, either is left to a workflow.
        """
        if one.status is RunStatus.RUNNING:
            why = NOT_ENDED.message
            status = await self._execution.give_up(one.key, cause=why, exit=NOT_ENDED)
        else:
            status = await self._execution.finish(one.key, cause="import ended")
        log.info(
            "import is %s",
            status,
            extra={"action": "run_status", "run_id": one.key.run_id, "status": str(status)},
        )

    def _transfer(self, record: TransferRecord) -> Transfer:
        mode = TransferMode(record.mode)
        warm = mode is TransferMode.WRITE and names.is_warm(record.volume, record.knit_id)
        return Transfer(
            name=names.warm_transfer(record.volume)
            if warm
            else names.transfer(record.knit_id, mode, record.transfer_id),
            volume=_volume(record),
            mode=mode,
            token=record.token,
            idle=self._idle,
        )


def _volume(record: TransferRecord) -> Volume:
    return Volume(name=record.volume, knit_id=record.knit_id)
