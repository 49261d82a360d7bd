"""The life of a transfer: opened, its lease renewed, and ended in one of three ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from knit_api.deps import Deps, TransferClient
from knit_api.full_disk import explaining_full_disk
from knit_api.server.streams import cancel_and_wait, finish_despite_cancel
from knit_api.transfers.volume_access import VolumeAccess, open_volume
from knit_workflows.backoff import Backoff
from knit_workflows.client import TransferHandle
from knit_workflows.domain import errors
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.readers import PRESENT_EVERY
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.metrics.instruments import TRANSFERS_ENDED, TRANSFERS_OPEN

log = logging.getLogger(__name__)

UPLOAD: Final = "upload"
DOWNLOAD: Final = "download"
"""Directions of transfers in metrics."""
_MAX_REASON_CHARS: Final = 200
_MAX_FINISH_PAUSE: Final = 8.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer that is open, with what its life depends on."""

    handle: TransferHandle
    deps: Deps
    store: ApiStore
    client: TransferClient

    async def volume(self) -> VolumeAccess:
        """Gives access to the transfer's volume; raises TransferNotReady."""
        record = await self.store.transfers.get(self.handle.transfer_id)
        return open_volume(record, self.deps.threads, self.deps.agents.client)

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renews the lease three times per lease while inside."""
        renewing = asyncio.ensure_future(self._renew(self.deps.lease.total_seconds() / 3))
        try:
            yield
        finally:
            await cancel_and_wait(renewing)

    async def _renew(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            with suppress(errors.KnitError):  # the next may succeed; if none does, `finish` says so
                await self.client.renew(self.handle)

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """Records again and again that the client of a download is there, while inside.

        So whoever discards the Data can tell it from one whose API was killed.
        """
        recording = asyncio.ensure_future(self._record_presence())
        try:
            yield
        finally:
            await cancel_and_wait(recording)

    async def _record_presence(self) -> None:
        while True:
            await asyncio.sleep(PRESENT_EVERY.total_seconds())
            with suppress(errors.KnitError):
                await self.store.transfers.present(self.handle.transfer_id)

    async def finish(self, volume: VolumeAccess) -> None:
        """Makes the uploaded Data done. From the first try on the content stays.

        Raises:
            EngineUnavailable: Temporal does not answer for long; the Data may yet become done.
            Conflict: the upload was stopped, or its workflow ended, by somebody else.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.deps.timeouts.finish
        backoff = Backoff(0.5, _MAX_FINISH_PAUSE)
        while True:
            try:
                closed = await self.client.finish(self.handle, ok=True)
                break
            except errors.EngineUnavailable as error:
                pause = backoff.next()
                if loop.time() + pause > deadline:
                    raise errors.EngineUnavailable(
                        "the content has arrived, but Temporal does not answer",
                        advice="the Data may still become done; look before you push again",
                        see=self.handle.knit_id,
                    ) from error
            except errors.Conflict as error:
                await self._ended_by_others(volume, error)
                return
            await asyncio.sleep(pause)
        if closed.status != RunStatus.DONE:
            if closed.status == RunStatus.FAILED:
                with suppress(errors.KnitError):
                    await volume.clear()
            raise errors.Conflict(
                f"the upload ended as {closed.status or 'nothing'}: somebody stopped it",
                advice="push again",
                see=self.handle.run_id or "",
            )

    async def _ended_by_others(self, volume: VolumeAccess, error: errors.Conflict) -> None:
        """Finds out what became of an upload whose workflow is over.

        Its content is removed only when its Run has failed, which is final (its lease ran out).
        Otherwise somebody ended the workflow just as it committed: the Data may yet become done.

        Raises:
            Conflict: unless the Data is done.
        """
        try:
            status = (await self.store.data.get(self.handle.knit_id)).upstream.run.status
        except errors.KnitError:
            raise error from None
        if status is RunStatus.DONE:
            return
        if status is RunStatus.FAILED:
            with suppress(errors.KnitError):
                await volume.clear()
            raise error
        raise errors.Conflict(
            "the upload's workflow was ended by others",
            advice="the Data may still become done; look before you push again",
            see=self.handle.knit_id,
        ) from error

    async def abort(self, error: BaseException) -> None:
        """Ends a transfer that failed, discarding what an upload brought; raises nothing."""
        reason = str(error) or type(error).__name__
        try:
            async with asyncio.timeout(self.deps.timeouts.abort):
                await self.client.finish(self.handle, ok=False, reason=reason[:_MAX_REASON_CHARS])
        except (errors.KnitError, TimeoutError) as failure:  # the lease will end it
            log.warning(
                "transfer could not be ended: %r",
                failure,
                extra={"action": "transfer_left", "transfer_id": self.handle.transfer_id},
            )
        log.info(
            "transfer is aborted: %s",
            reason,
            extra={
                "action": "transfer_aborted",
                "transfer_id": self.handle.transfer_id,
                "knit_id": self.handle.knit_id,
                "run_id": self.handle.run_id,
            },
        )

    async def release(self) -> None:
        """Ends a transfer that only read; raises nothing."""
        with suppress(errors.KnitError):  # the lease will end it
            await self.client.finish(self.handle, ok=True)


async def open_upload(deps: Deps, key: UUID | None, actor: str) -> Transfer:
    """Opens a transfer into the volume of a new Data.

    Raises:
        UploadInProgress, IdempotencyKeyConsumed: a transfer with the key was opened before.
        Unavailable: store, Temporal or volume.
    """
    client = await deps.transfers.get()
    return await _open(deps, client, lambda: client.open_upload(key, actor=actor))


@contextmanager
def counted(direction: str) -> Iterator[None]:
    """Counts a transfer: as open while inside, then by how it ended."""
    outcome = "aborted"
    try:
        with TRANSFERS_OPEN.labels(direction).track_inprogress():
            yield
        outcome = "complete"
    finally:
        TRANSFERS_ENDED.labels(direction, outcome).inc()


@asynccontextmanager
async def reading(deps: Deps, knit_id: KnitId) -> AsyncIterator[VolumeAccess]:
    """Holds a transfer open that reads a Data.

    Raises:
        DataNotFound: there is no such Data, or it has no content.
        Unavailable: store, Temporal or volume.
    """
    transfer = await _open_download(deps, knit_id)
    with counted(DOWNLOAD):
        try:
            async with transfer.renewed(), transfer.present():
                yield await transfer.volume()
        except BaseException as error:
            await finish_despite_cancel(transfer.abort(error))
            raise
        await finish_despite_cancel(transfer.release())


async def _open_download(deps: Deps, knit_id: KnitId) -> Transfer:
    client = await deps.transfers.get()
    try:
        return await _open(deps, client, lambda: client.open_download(knit_id))
    except errors.BackendRejected as error:
        # A Run that is stopped before it begins ends without volumes: nothing is broken.
        store = await deps.store.get()
        status = (await store.data.get(knit_id)).upstream.run.status
        if status not in (RunStatus.ABORTING, RunStatus.FAILED):
            raise
        raise errors.DataNotFound(
            "the Data has no content: its Run ended before it could write any",
            advice="look at its Run: knit run show",
            see=knit_id,
        ) from error


async def _open(
    deps: Deps, client: TransferClient, opening: Callable[[], Awaitable[TransferHandle]]
) -> Transfer:
    """Waits for a transfer to open, for as long as the database and Temporal answer.

    Opening may take long for good reasons, such as a pod that has to start; their absence is none.
    A transfer that opens after that is ended by its lease.
    """
    store = await deps.store.get()
    with explaining_full_disk(deps.disk):
        await _check(deps, store, client)
        task = asyncio.ensure_future(opening())
        try:
            while not (await asyncio.wait({task}, timeout=deps.timeouts.open_check_interval))[0]:
                await _check(deps, store, client)
            return Transfer(task.result(), deps, store, client)
        finally:
            await cancel_and_wait(task)


async def _check(deps: Deps, store: ApiStore, client: TransferClient) -> None:
    """Raises Unavailable when database or Temporal does not answer."""
    try:
        async with asyncio.timeout(deps.timeouts.ping):
            await store.transfers.announce()  # a ping too
    except TimeoutError as error:
        raise errors.StoreUnavailable from error
    await client.ping()
