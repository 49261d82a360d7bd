"""`/api/data`: find, upload, download, tag and purge Data."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from knit_api import pagination
from knit_api.accounts.guard import ActorOf, ProjectsOf, note_made
from knit_api.accounts.projects import tagged
from knit_api.bodies import model_body
from knit_api.deps import Deps, DepsOf, StoreOf
from knit_api.openapi.document import failures, gives_stream, request_header, takes, takes_archive
from knit_api.pagination import page_response
from knit_api.parameters import (
    UUID_PATTERN,
    DataFilter,
    KnitIdPath,
    PurgeOptions,
    UploadOptions,
    refuse_system_keys,
)
from knit_api.responses import json_response
from knit_api.server import sockets
from knit_api.server.framing import accepts_chunks
from knit_api.transfers import idempotency
from knit_api.transfers.codecs import GZIPPED_TAR, PLAIN_TAR
from knit_api.transfers.download import download
from knit_api.transfers.upload import upload
from knit_api.transfers.upload_body import EarlyResponse, negotiate_archive, upload_body
from knit_api.whole_lists import at_one_instant, whole_list
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.tags import checked_tag, storable_tag
from knit_workflows.wire.data import Data, PurgedData
from knit_workflows.wire.mapping import ToWire
from knit_workflows.wire.tags import TagChange as WireTagChange

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/data", tags=["data"])


@router.get(
    "",
    response_model=list[Data],
    responses=pagination.RESPONSES | failures(400, 426, 503),
)
async def find_data(
    request: Request, deps: DepsOf, store: StoreOf, query: Annotated[DataFilter, Query()]
) -> Response:
    """Find Data by tags and time: oldest first, those without a time last.

    Without `limit` it is each Data that there is when the request comes, once, in the order of that
    instant and as it is when it is sent.
    """
    asked = query.to_domain()
    if query.limit is None:
        parts = at_one_instant(store.data, asked, query.cursor)
        timeout = deps.timeouts.write
        return await whole_list(request, parts, lambda: ToWire().data, write_timeout=timeout)
    found = await store.data.find(asked, **pagination.bounds(query))
    return await page_response(request, query, found, ToWire().data, pagination.data_cursor)


@router.post(
    "",
    response_model=Data,
    responses=failures(400, 408, 409, 415, 503),
    openapi_extra=takes_archive()
    | {
        "parameters": [
            request_header(
                idempotency.HEADER,
                "the key of this upload, a random UUID: however often it is repeated with that "
                "key, the upload makes one Data",
                schema={"type": "string", "pattern": UUID_PATTERN},
            ),
        ]
    },
)
async def upload_data(
    request: Request,
    deps: DepsOf,
    store: StoreOf,
    actor: ActorOf,
    projects: ProjectsOf,
    options: Annotated[UploadOptions, Query()],
) -> Response:
    """Upload an archive as a new Data, with its tags if given; all of it or nothing.

    The optional trailer `x-checksum-md5`, announced by the header `Trailer`, is the MD5 of the body
    as it was sent.

    With a key that has made a Data already, the response is that Data as it is now; body and tags
    of this request are ignored. A key whose upload is under way is 409 with `Retry-After`; one
    whose upload has failed, or whose Data was deleted, is 409 without, and stays so.
    """
    key = idempotency.idempotency_key(request.headers)
    body = upload_body(request, deps.lease)
    tags = tagged(projects, frozenset(options.tag))
    uploaded = await upload(deps, body, tags, key, actor=actor)
    one = await store.data.get(uploaded.data.knit_id) if projects else uploaded.data
    note_made(request, knit_id=one.knit_id)
    response = json_response(ToWire().data(one))
    if uploaded.repeated:
        log.info(
            "a repeated upload is answered",
            extra={"action": "upload_repeated", "knit_id": one.knit_id},
        )
        return EarlyResponse(response, request, body)
    log.info("Data is uploaded", extra={"action": "data_uploaded", "knit_id": one.knit_id})
    return response


@router.get(
    "/{knit_id}",
    response_model=None,
    responses=gives_stream(GZIPPED_TAR, PLAIN_TAR) | failures(404, 426, 500, 503),
)
async def download_data(
    knit_id: KnitIdPath, request: Request, deps: DepsOf, store: StoreOf, projects: ProjectsOf
) -> Response:
    """Download the content of a Data as gzip(tar), or as plain tar if that is accepted first.

    It has files and links, as they are. `Accept: application/tar+gzip;entries=all` (or
    `application/x-tar;entries=all`) adds folders with their permissions and times, named pipes, and
    global headers whose `comment` is `left out by knit: KIND: PATH` for each thing that no archive
    can hold; with `holes=kept`, too, holes of files are kept as GNU tar's sparse format 1.0 does.

    Whatever its Run's status is, if it has a volume. The trailer `x-checksum-md5` of a gzip(tar)
    is the MD5 of the body as it was sent. Over HTTP/1.0 it has a length instead of chunks, and the
    gzip is not compressed.

    With `Accept-Encoding: zstd` a plain tar has the content coding zstd: frames, each with a
    checksum, that are compressed as far as the client takes bytes more slowly than that saves them.
    """
    if projects:
        await store.data.get(knit_id)
    media_type, form = negotiate_archive(request.headers.get("accept", ""))
    direct = sockets.can_detach(request.scope)
    chunked = accepts_chunks(request.scope)
    return await download(
        deps,
        knit_id,
        media_type,
        form,
        direct=direct,
        chunked=chunked,
        accept_encoding=request.headers.get("accept-encoding", ""),
    )


@router.get("/{knit_id}/metadata", response_model=Data, responses=failures(404, 503))
async def show_data(knit_id: KnitIdPath, store: StoreOf) -> Response:
    """Show a Data with its tags and neighbours, but not its content."""
    return json_response(ToWire().data(await store.data.get(knit_id)))


@router.put(
    "/{knit_id}",
    response_model=Data,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(WireTagChange),
)
async def change_tags(knit_id: KnitIdPath, request: Request, store: StoreOf) -> Response:
    """Change the user tags of a Data: removals first, then additions; idempotent."""
    asked = await model_body(request, WireTagChange)
    change = TagChange(
        add=frozenset(checked_tag(tag.key, tag.value) for tag in asked.add),
        remove=frozenset(storable_tag(tag.key, tag.value) for tag in asked.remove),
        remove_keys=frozenset(storable_tag(key, "").key for key in asked.remove_key),
    )
    refuse_system_keys([*(tag.key for tag in change.add | change.remove), *change.remove_keys])
    one = await store.data.change_tags(knit_id, change)
    log.info("Data is tagged", extra={"action": "data_tagged", "knit_id": one.knit_id})
    return json_response(ToWire().data(one))


@router.post(
    "/{knit_id}/purge",
    response_model=PurgedData,
    responses=failures(400, 404, 409, 503),
)
async def purge_data(
    knit_id: KnitIdPath,
    deps: DepsOf,
    store: StoreOf,
    actor: ActorOf,
    options: Annotated[PurgeOptions, Query()],
) -> Response:
    """Discard the content of a Data for good; its tags, its Run and its lineage stay.

    It then has the tag `knit#transient:purged`, is never used for new Runs, and cannot be
    downloaded (404); Runs that have used it cannot be retried (409). Refused (409) while it is made
    or read. A second call changes nothing. Content that was only adopted is left as it is.
    """
    dry_run = bool(options.dry_run)
    purge = await store.data.purge(knit_id, actor=actor, dry_run=dry_run)
    size = None
    if dry_run and purge.volume is not None:
        size = await _size(deps, purge.volume)
    if purge.is_new and not dry_run:
        log.info("Data is purged", extra={"action": "data_purged", "knit_id": knit_id})
    kept = purge.data.adopted_volume if purge.is_new else None
    about = {"volume": purge.volume, "bytes": size, "kept_volume": kept}
    return json_response(
        {
            "outcome": "purged" if purge.is_new else "known",
            **{name: value for name, value in about.items() if value is not None},
            "data": ToWire().data(purge.data),
        }
    )


async def _size(deps: Deps, volume: str) -> int | None:
    """Gives the bytes of a volume, if somebody is there who can tell."""
    try:
        client = await deps.transfers.get()
        await client.ping()
        [answer] = await client.look_at_volumes("bytes", [volume])
    except KnitError as error:
        log.info("size is unknown: %s", error, extra={"action": "size_unknown"})
        return None
    return answer.bytes
