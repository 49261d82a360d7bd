"""The activities of `knit.Transfer`: the rows of a transfer, its volume and its endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from temporalio import activity

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.transfers.opening import (
    Opening,
    passes,
    refusal,
    transfer_of,
    volume_of,
)
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.contracts.transfers import (
    Closed,
    CloseTransfer,
    Opened,
    OpenTransfer,
    TransferActivities,
)
from knit_workflows.domain.errors import (
    Conflict,
    KnitError,
    NotFound,
    StoreUnavailable,
)
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import NOT_ENDED
from knit_workflows.domain.ports import (
    DataStore,
    RunExecutionStore,
    RunKey,
    TransferRecord,
    TransferStore,
    UnfinishedImport,
)
from knit_workflows.domain.readers import Left, endpoint_token
from knit_workflows.domain.runs.run import KNIT, LOST, Exit, RunStatus

log = logging.getLogger(__name__)

BROKEN_CODE: Final = 1


class ComputeTransferActivities(TransferActivities):
    """The activities of `knit.Transfer`, on a store and a compute back-end."""

    def __init__(
        self,
        store: TransferStore,
        data: DataStore,
        execution: RunExecutionStore,
        backend: ComputeBackend,
        idle: timedelta,
        taken: Callable[[], None] = lambda: None,
        linger: timedelta = timedelta(0),
    ) -> None:
        """`taken` is called when an upload may have taken a volume that waited for one.

        `linger` is for how long a pod of downloads is kept after its last reader.
        """
        self._linger = linger
        self._taken = taken
        self._store = store
        self._data = data
        self._execution = execution
        self._backend = backend
        self._idle = idle

    @activity.defn(name="knit.open_transfer")
    async def open_transfer(self, request: OpenTransfer) -> Opened:
        """Makes the rows and the volume, opens the transfer, records its endpoint.

        Failures that a retry cannot mend are a result, not an error, because a client is waiting; a
        full disk is one of them, and so is an endpoint that is not open in time, whatever the
        attempt.
        """
        info = activity.info()
        before = info.started_time - info.scheduled_time
        parts = (self._store, self._execution, self._backend, self._idle)
        with translated():
            async with heartbeating():
                opening = Opening(request, before, *parts)
                opened = await _opened(opening)
                opened = opened.model_copy(update={"endpoint_id": opening.endpoint_id})
                if opening.took_warm_volume:
                    self._taken()
                return opened

    @activity.defn(name="knit.close_transfer")
    async def close_transfer(self, request: CloseTransfer) -> Closed:
        """Finalizes the upload, closes the transfer, removes its row. May be repeated."""
        with translated():
            async with heartbeating():
                return await self.close(request)

    async def close(self, request: CloseTransfer) -> Closed:
        """Does the work of `close_transfer`; for other activities too."""
        broken = await self._why_broken(request) if request.run_id else None
        status = await self._finalize_upload(request, broken) if request.run_id else ""
        record = await self._open_record(request)
        if record is not None:
            left = await self._leave(record, request)
            if not left.closes:
                return Closed(stays=left.stays)
            await self._backend.close_transfer(transfer_of(record, self._idle))
            await self._store.closed(request.transfer_id)
            if status == RunStatus.FAILED and not record.endpoint:
                await self._discard_unopened(record)
        why = broken.message if broken and status == RunStatus.FAILED else ""
        return Closed(status=status, reason=why)

    async def _open_record(self, request: CloseTransfer) -> TransferRecord | None:
        """Gives the row of a transfer; if others removed it, what is needed to close it."""
        try:
            return await self._store.get(request.transfer_id)
        except NotFound:
            if request.mode != "read":
                return None
        knit_id = KnitId(request.knit_id)
        token = endpoint_token(request.endpoint_id or request.transfer_id, "")
        return TransferRecord(
            request.transfer_id, knit_id, RunId(""), names.volume(knit_id), request.mode, token, ""
        )

    async def _leave(self, record: TransferRecord, request: CloseTransfer) -> Left:
        """Leaves the endpoint that others may share; without one, there is nobody else."""
        if not record.endpoint_id:
            return Left("", closes=True)
        keeps = request.ok and request.may_stay and not record.endpoint.startswith("file:")
        return await self._store.leave(
            record.transfer_id,
            record.knit_id,
            record.endpoint_id,
            linger=self._linger if keeps else timedelta(0),
        )

    async def _discard_unopened(self, record: TransferRecord) -> None:
        """Has the volume of an upload collected that could not even begin: nothing is in it."""
        try:
            await self._data.purge(record.knit_id, actor=KNIT)
        except KnitError as error:  # a Data that stays is only untidy
            log.info(
                "the volume of an upload that was never opened is kept: %s",
                error,
                extra={"action": "purge_refused", "knit_id": record.knit_id},
            )

    async def _finalize_upload(self, request: CloseTransfer, broken: Exit | None) -> str:
        key = RunKey(RunId(request.run_id), 1)
        try:
            await self._execution.advance(
                key,
                RunStatus.ABORTING if broken else RunStatus.COMPLETING,
                cause="upload broken" if broken else "upload finished",
                exit=broken,
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

    async def _why_broken(self, request: CloseTransfer) -> Exit | None:
        """Says what is wrong with an upload: its client, or that its volume was deleted."""
        if not request.ok:
            return Exit(BROKEN_CODE, request.reason)
        with suppress(NotFound):  # it was ended before
            volume = volume_of(await self._store.get(request.transfer_id))
            if await self._backend.missing_volumes([volume]):
                return Exit(LOST.code, f"somebody has deleted the volume {volume.name} meanwhile")
        return None

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


async def _opened(opening: Opening) -> Opened:
    """Opens a transfer, or gives the reason why not; raises StoreUnavailable."""
    while True:
        try:
            await opening.step()
            return Opened(ok=True)
        except KnitError as error:
            if not passes(error):
                return refusal(error)
            if isinstance(error, StoreUnavailable):
                raise
            if opening.is_over:
                return opening.too_late(error)
        await asyncio.sleep(opening.pause)
        try:
            await opening.require_wanted()
        except (Conflict, NotFound) as error:
            return refusal(error)
