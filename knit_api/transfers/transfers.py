"""Carries an upload or a download from its opening to its end, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from knit_api.deps import ApiStore, Deps, Transfers
from knit_api.full_disk import naming_full_disk
from knit_api.responses import StreamedResponse
from knit_api.server.framing import needs_http_1_1
from knit_api.server.streams import cancelled, completed
from knit_api.transfers.codecs import CHECKSUM_TRAILER, GZIPPED_TAR, PLAIN_TAR, Encoder
from knit_api.transfers.direct_archive import DirectArchive
from knit_api.transfers.doors import Door, Pieces, open_door
from knit_api.transfers.upload_body import UploadBody
from knit_api.transfers.upload_keys import made_before
from knit_workflows.archive import Form
from knit_workflows.client import OpenTransfer
from knit_workflows.domain import errors
from knit_workflows.domain.data import DataDetail, TagChange
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs import RunStatus
from knit_workflows.domain.tags import Tag

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS: Final = 3.0
"""How often database and Temporal are asked whether they are there, while a transfer is opened."""
ANSWER_SECONDS: Final = 3.0
FINISH_SECONDS: Final = 30.0
"""How long the end of a complete upload is tried while Temporal does not answer."""
GIVE_UP_SECONDS: Final = 5.0
"""How long the client of a broken transfer waits for its clean-up, which goes on without it."""

_NO_VOLUME: Final = (RunStatus.DEACTIVATED, RunStatus.WAITING)
_STOPPED: Final = (RunStatus.ABORTING, RunStatus.FAILED)
_MOST_REASON_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A Data that was uploaded; `before`: by an earlier request, and this one's body is unread."""

    data: DataDetail
    before: bool = False


async def upload(
    deps: Deps, body: UploadBody, tags: frozenset[Tag], key: UUID | None = None
) -> Uploaded:
    """Make a Data of a body; it is done together with its tags, or there is a failed Run at most.

    On any failure, the client's leaving and the end of this process included, the content is
    removed and the transfer is ended as broken before the error is raised. Of all requests with
    one key, one at most makes a Data; to the others it is the answer, whatever body and tags they
    have. Raises UploadUnderWay, UploadKeySpent.
    """
    store = await deps.store.get()
    transfers = await deps.transfers.get()
    if key is not None and (made := await made_before(store, key)):
        return Uploaded(made, before=True)
    try:
        with naming_full_disk(deps.disk):
            transfer = await _opened(store, transfers, lambda: transfers.open_upload(key))
    except (errors.UploadUnderWay, errors.UploadKeySpent):
        # Another request with the key was quicker: it may have come to its end by now.
        if key is not None and (made := await made_before(store, key)):
            return Uploaded(made, before=True)
        raise
    return Uploaded(await _filled(deps, transfer, body, tags))


async def _filled(
    deps: Deps, transfer: OpenTransfer, body: UploadBody, tags: frozenset[Tag]
) -> DataDetail:
    """Bring an upload that is open to its end, whichever that is."""
    store = await deps.store.get()
    transfers = await deps.transfers.get()
    door: Door | None = None
    try:
        async with _renewed(transfers, transfer, deps.lease):
            door = await _door(deps, store, transfer)
            if tags:  # before the end, so that nothing ever matches the Data without them
                await store.change_tags(transfer.knit_id, TagChange(add=tags))
            await door.put(body)
    except BaseException as error:
        await completed(_give_up(transfers, transfer, error))
        raise
    await completed(_finish(store, transfers, transfer, door))
    return await store.data(transfer.knit_id)


async def download(
    deps: Deps,
    knit_id: KnitId,
    media_type: str,
    form: Form,
    *,
    direct: bool = False,
    chunks: bool = True,
) -> StreamedResponse:
    """Give a Data as an archive of that type and form. Raises DataNotFound, Unavailable.

    With `direct` a thread may write it to the client's connection. Without `chunks` it is looked
    through first, so that it has a length, and not compressed.
    """
    store = await deps.store.get()
    detail = await store.data(knit_id)
    if detail.upstream.run.status in _NO_VOLUME:
        raise errors.TransferNotReady(
            "the Data has no volume yet: its Run has not started",
            advice="wait for its Run, or pull a Data that is done",
            see=detail.upstream.run.run_id,
        )
    encoder = Encoder(media_type, stored=not chunks)
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(reading(deps, knit_id))
        length = None if chunks else await _stored_bytes(door, media_type, form)
        spans = door.spans(form) if direct and media_type == PLAIN_TAR else None
        if spans is not None:
            loop = asyncio.get_running_loop()
            first = await completed(loop.run_in_executor(deps.threads.steps, next, spans, b""))
            threads = deps.threads.downloads
            return DirectArchive(first, spans, stack.pop_all(), media_type, threads)
        pieces = await primed(stack, door.archive(form))
        with_checksum = media_type == GZIPPED_TAR
        return StreamedResponse(
            _encoded(pieces, encoder, deps),
            stack.pop_all(),
            media_type,
            trailers=(lambda: {CHECKSUM_TRAILER: encoder.checksum()}) if with_checksum else None,
            trailer_names=CHECKSUM_TRAILER,
            length=length,
        )


async def _stored_bytes(door: Door, media_type: str, form: Form) -> int:
    size = await door.archive_bytes(form)
    if size is None:
        raise needs_http_1_1("the archive")
    return Encoder.stored_bytes(media_type, size)


@asynccontextmanager
async def reading(deps: Deps, knit_id: KnitId) -> AsyncIterator[Door]:
    """Hold a door to read a Data open. Raises DataNotFound, Unavailable."""
    store = await deps.store.get()
    transfers = await deps.transfers.get()
    with naming_full_disk(deps.disk):
        transfer = await _opened_to_read(store, transfers, knit_id)
    try:
        async with _renewed(transfers, transfer, deps.lease):
            yield await _door(deps, store, transfer)
    except BaseException as error:
        await completed(_give_up(transfers, transfer, error))
        raise
    await completed(_release(transfers, transfer))


async def _opened_to_read(store: ApiStore, transfers: Transfers, knit_id: KnitId) -> OpenTransfer:
    try:
        return await _opened(store, transfers, lambda: transfers.open_download(knit_id))
    except errors.BackendRejected as error:
        # A Run that is stopped before it begins ends without volumes: nothing is broken.
        if (await store.data(knit_id)).upstream.run.status not in _STOPPED:
            raise
        raise errors.DataNotFound(
            "the Data has no content: its Run ended before it could write any",
            advice="look at its Run: knit run show",
            see=knit_id,
        ) from error


async def _opened(
    store: ApiStore, transfers: Transfers, opening: Callable[[], Awaitable[OpenTransfer]]
) -> OpenTransfer:
    """Open a transfer, for as long as the database and Temporal answer; raises Unavailable.

    Opening may take long for good reasons, such as a pod that has to start; their absence is none.
    A transfer that opens after that is ended by its lease.
    """
    await _ask(store, transfers)
    task = asyncio.ensure_future(opening())
    try:
        while not (await asyncio.wait({task}, timeout=ASK_AGAIN_SECONDS))[0]:
            await _ask(store, transfers)
        return task.result()
    finally:
        await cancelled(task)


async def _ask(store: ApiStore, transfers: Transfers) -> None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await store.attend()  # an answer too, and Runs stand back for us
    except TimeoutError as error:
        raise errors.StoreUnavailable from error
    await transfers.ping()


async def primed(stack: AsyncExitStack, pieces: Pieces) -> AsyncGenerator[bytes, None]:
    """Fetch the first piece, so that what cannot be read at all still gets a proper answer.

    The pieces are closed with the stack.
    """
    stack.push_async_callback(pieces.aclose)
    first = await anext(pieces, None)

    async def all_pieces() -> AsyncGenerator[bytes, None]:
        if first is not None:
            yield first
            async for piece in pieces:
                yield piece

    return all_pieces()


async def _encoded(
    pieces: AsyncIterator[bytes], encoder: Encoder, deps: Deps
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    async for piece in pieces:
        if data := await loop.run_in_executor(deps.threads.steps, encoder.encode, piece):
            yield data
    if rest := encoder.finish():
        yield rest


async def _door(deps: Deps, store: ApiStore, transfer: OpenTransfer) -> Door:
    record = await store.transfer(transfer.transfer_id)
    return open_door(record, deps.threads, deps.agents)


async def _finish(
    store: ApiStore, transfers: Transfers, transfer: OpenTransfer, door: Door
) -> None:
    """Make the Data done. From the first try on the content stays: the end may have arrived."""
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + FINISH_SECONDS, 0.5
    while True:
        try:
            closed = await transfers.finish(transfer, ok=True)
            break
        except errors.EngineUnavailable as error:
            if loop.time() + pause > until:
                raise errors.EngineUnavailable(
                    "the content has arrived, but Temporal does not answer",
                    advice="the Data may still become done; look before you push again",
                    see=transfer.knit_id,
                ) from error
        except errors.Conflict as error:
            await _ended_by_others(store, transfer, door, error)
            return
        await asyncio.sleep(pause)
        pause *= 2
    if closed.status != RunStatus.DONE:
        if closed.status == RunStatus.FAILED:
            with suppress(errors.KnitError):
                await door.clear()
        raise errors.Conflict(
            f"the upload ended as {closed.status or 'nothing'}: somebody stopped it",
            advice="push again",
            see=transfer.run_id or "",
        )


async def _ended_by_others(
    store: ApiStore, transfer: OpenTransfer, door: Door, error: errors.Conflict
) -> None:
    """Say what became of an upload whose workflow is over; raises Conflict unless it is done.

    Its content is removed only when its Run has failed, which is for ever (its lease ran out). Else
    somebody has ended the workflow in the moment of the commit: the Data may yet become done.
    """
    try:
        status = (await store.data(transfer.knit_id)).upstream.run.status
    except errors.KnitError:
        raise error from None
    if status is RunStatus.DONE:
        return
    if status is RunStatus.FAILED:
        with suppress(errors.KnitError):
            await door.clear()
        raise error
    raise errors.Conflict(
        "the upload's workflow was ended by others",
        advice="the Data may still become done; look before you push again",
        see=transfer.knit_id,
    ) from error


async def _give_up(transfers: Transfers, transfer: OpenTransfer, error: BaseException) -> None:
    reason = str(error) or type(error).__name__
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await transfers.finish(transfer, ok=False, reason=reason[:_MOST_REASON_CHARS])
    except (errors.KnitError, TimeoutError) as failure:  # the lease will end it
        log.warning(
            "transfer could not be ended: %r",
            failure,
            extra={"action": "transfer_left", "transfer_id": transfer.transfer_id},
        )
    log.info(
        "transfer is broken: %s",
        reason,
        extra={
            "action": "transfer_broken",
            "transfer_id": transfer.transfer_id,
            "knit_id": transfer.knit_id,
            "run_id": transfer.run_id,
        },
    )


async def _release(transfers: Transfers, transfer: OpenTransfer) -> None:
    with suppress(errors.KnitError):  # the lease will end it
        await transfers.finish(transfer, ok=True)


@asynccontextmanager
async def _renewed(
    transfers: Transfers, transfer: OpenTransfer, lease: timedelta
) -> AsyncIterator[None]:
    """Renew the lease three times per lease while inside."""
    renewing = asyncio.ensure_future(_renew(transfers, transfer, lease.total_seconds() / 3))
    try:
        yield
    finally:
        await cancelled(renewing)


async def _renew(transfers: Transfers, transfer: OpenTransfer, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        with suppress(errors.KnitError):  # the next one may succeed; if none does, `finish` says so
            await transfers.renew(transfer)
