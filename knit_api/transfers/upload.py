"""Makes a Data of the body of a request; it is done together with its tags, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from knit_api.deps import Deps
from knit_api.server.streams import finish_despite_cancel
from knit_api.transfers import lifecycle
from knit_api.transfers.idempotency import existing_upload
from knit_api.transfers.lifecycle import Transfer
from knit_api.transfers.upload_body import UploadBody
from knit_api.transfers.volume_access import VolumeAccess
from knit_workflows.domain import errors
from knit_workflows.domain.data import DataDetail, TagChange
from knit_workflows.domain.tags import Tag


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A Data that was uploaded; `repeated`: by an earlier request, this one's body is unread."""

    data: DataDetail
    repeated: bool = False


async def upload(
    deps: Deps,
    body: UploadBody,
    tags: frozenset[Tag],
    key: UUID | None = None,
    *,
    actor: str,
) -> Uploaded:
    """Makes a Data of a body, for `actor`; at worst a failed Run is left.

    On any failure, a client that disconnects and the end of this process included, the content is
    removed and the transfer aborted before the error is raised. Of all requests with one key at
    most one makes a Data; the others get that Data, whatever their body and tags.

    Raises:
        UploadInProgress: another request with the key is not through yet.
        IdempotencyKeyConsumed: the upload with the key has failed, or its Data was deleted.
        Unavailable: store, Temporal or volume.
    """
    store = await deps.store.get()
    if key is not None and (existing := await existing_upload(store, key)):
        return Uploaded(existing, repeated=True)
    try:
        transfer = await lifecycle.open_upload(deps, key, actor)
    except (errors.UploadInProgress, errors.IdempotencyKeyConsumed):
        # Another request with the key was quicker: it may have come to its end by now.
        if key is not None and (existing := await existing_upload(store, key)):
            return Uploaded(existing, repeated=True)
        raise
    with lifecycle.counted(lifecycle.UPLOAD):
        return Uploaded(await _fill(transfer, body, tags))


async def _fill(transfer: Transfer, body: UploadBody, tags: frozenset[Tag]) -> DataDetail:
    """Brings an upload that is open to its end, whichever that is."""
    knit_id = transfer.handle.knit_id
    volume: VolumeAccess | None = None
    try:
        async with transfer.renewed():
            volume = await transfer.volume()
            if tags:  # before the end, so that nothing ever matches the Data without them
                await transfer.store.data.change_tags(knit_id, TagChange(add=tags))
            await volume.put(body)
    except BaseException as error:
        await finish_despite_cancel(transfer.abort(error))
        raise
    await finish_despite_cancel(transfer.finish(volume))
    return await transfer.store.data.get(knit_id)
