"""What `knit.Transfer` does in the world: the rows of a transfer, its volume, and its door."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from temporalio import activity

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.compute.base import ComputeBackend, Transfer, TransferMode, Volume
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
from knit_workflows.domain.ports import RunExecutionStore, RunKey, TransferRecord, TransferStore
from knit_workflows.domain.runs import Exit, RunStatus

log = logging.getLogger(__name__)

NOT_YET: Final = timedelta(milliseconds=100)
"""How soon a door that needs more time is asked for again."""
BROKEN_CODE: Final = 1
NO_ROOM: Final = (StorageFull, StoreFull)
"""What may pass, but not while a client waits."""


class ComputeTransferActivities(TransferActivities):
    """The activities of `knit.Transfer`, on a store and a compute back-end."""

    def __init__(
        self,
        store: TransferStore,
        execution: RunExecutionStore,
        backend: ComputeBackend,
        idle: timedelta,
    ) -> None:
        self._store = store
        self._execution = execution
        self._backend = backend
        self._idle = idle

    @activity.defn(name="knit.open_transfer")
    async def open_transfer(self, request: OpenTransfer) -> Opened:
        """Makes the rows and the volume, opens the door, records the endpoint.

        What can never succeed is an answer, not an error: the client is waiting for it. So is a
        full disk.
        """
        async with heartbeating():
            try:
                if request.mode == "write":
                    await self._backend.require_room()
                record = await self._record(request)
                if request.mode == "write":
                    await self._backend.create_volume(_volume(record))
                endpoint = await self._door(record)
                await self._store.opened(record.transfer_id, endpoint)
            except KnitError as error:
                if isinstance(error, Unavailable) and not isinstance(error, NO_ROOM):
                    with translated():
                        raise
                return Opened(
                    ok=False, kind=type(error).__name__, reason=error.reason, advice=error.advice
                )
        return Opened(ok=True)

    @activity.defn(name="knit.close_transfer")
    async def close_transfer(self, request: CloseTransfer) -> Closed:
        """Finalizes the upload, closes the door, removes the transfer's row. Twice is once."""
        with translated():
            async with heartbeating():
                return await self.close(request)

    async def close(self, request: CloseTransfer) -> Closed:
        """Does what `close_transfer` says; for other activities too."""
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
            return await self._store.begin_upload(
                request.transfer_id, RunId(request.run_id), knit_id
            )
        return await self._store.begin_download(request.transfer_id, knit_id)

    async def _door(self, record: TransferRecord) -> str:
        while True:
            try:
                endpoint = await self._backend.open_transfer(self._transfer(record))
            except TransferNotReady:
                await asyncio.sleep(NOT_YET.total_seconds())
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
            return ""  # The door could not be opened, not even its rows were made.
        log.info(
            "upload is %s",
            status,
            extra={"action": "run_status", "run_id": key.run_id, "status": str(status)},
        )
        return status

    def _transfer(self, record: TransferRecord) -> Transfer:
        return Transfer(
            name=names.transfer(record.knit_id, record.mode, record.transfer_id),
            volume=_volume(record),
            mode=TransferMode(record.mode),
            token=record.token,
            idle=self._idle,
        )


def _volume(record: TransferRecord) -> Volume:
    return Volume(name=record.volume, knit_id=record.knit_id)
