"""`/api/data`: find, upload, download and tag Data."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response

from knit_api import paging, queries
from knit_api.bodies import model_body
from knit_api.deps import DepsOf, StoreOf
from knit_api.openapi import document
from knit_api.openapi.document import failures, gives_stream, takes, takes_archive
from knit_api.paging import page_response
from knit_api.responses import json_response
from knit_api.server import sockets
from knit_api.server.framing import takes_chunks
from knit_api.transfers import transfers, upload_keys
from knit_api.transfers.codecs import GZIPPED_TAR, PLAIN_TAR
from knit_api.transfers.upload_body import AnswerAhead, upload_body, wanted_archive
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.tags import Tag, checked_tag
from knit_workflows.wire.data import Data
from knit_workflows.wire.mapping import ToWire
from knit_workflows.wire.tags import TagChange as WireTagChange

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/data", tags=["data"])


@router.get(
    "",
    response_model=list[Data],
    responses=paging.RESPONSES | failures(400, 503),
    openapi_extra={
        "parameters": [
            document.query(
                "tag",
                "`key:value`; a Data has all of them",
                many=True,
                schema=document.TAG,
                example="type:dataset",
            ),
            document.query(
                "since",
                "RFC 3339; the first instant",
                schema=document.INSTANT,
                example="2026-01-02T00:00:00Z",
            ),
            document.query(
                "duration",
                "as Go writes it (`1h30m`); from `since`, which must be there, on; exclusive",
                schema=document.LENGTH,
                example="24h",
            ),
            *paging.PARAMETERS,
        ]
    },
)
async def find_data(request: Request, store: StoreOf) -> Response:
    """Find Data by tags and time: oldest first, those without a time last."""
    query, page = queries.data_query(request.query_params), queries.page(request.query_params)
    found = await store.data.find(query, **paging.bounds(page))
    return await page_response(request, page, found, ToWire().data, paging.data_cursor)


@router.post(
    "",
    response_model=Data,
    responses=failures(400, 408, 409, 415, 503),
    openapi_extra=takes_archive()
    | {
        "parameters": [
            document.request_header(
                upload_keys.HEADER,
                "the key of this upload, a random UUID: sent again with it, whatever became of "
                "the first answer, the upload still makes one Data only",
                schema=document.UUID,
            ),
            document.query(
                "tag",
                "`key:value`; the Data begins with it",
                many=True,
                schema=document.TAG,
                example="type:dataset",
            ),
        ]
    },
)
async def upload_data(request: Request, deps: DepsOf) -> Response:
    """Upload an archive as a new Data, with its tags if given; all of it or nothing.

    The optional trailer `x-checksum-md5`, announced by the header `Trailer`, is the MD5 of the body
    as it was sent.

    With a key that has made a Data already, the answer is that Data as it is now; body and tags of
    this request are not looked at. A key whose upload is under way is 409 with `Retry-After`; one
    whose upload has failed, or whose Data was deleted, is 409 without, and stays so.
    """
    tags = queries.user_tags(request.query_params)
    key = upload_keys.upload_key(request.headers)
    body = upload_body(request, deps.lease)
    uploaded = await transfers.upload(deps, body, tags, key)
    one = uploaded.data
    answer = json_response(ToWire().data(one))
    if uploaded.before:
        log.info("Data is asked for", extra={"action": "upload_repeated", "knit_id": one.knit_id})
        return AnswerAhead(answer, request, body)
    log.info("Data is uploaded", extra={"action": "data_uploaded", "knit_id": one.knit_id})
    return answer


@router.get(
    "/{knit_id}",
    response_model=None,
    responses=gives_stream(GZIPPED_TAR, PLAIN_TAR) | failures(404, 426, 500, 503),
)
async def download_data(knit_id: str, request: Request, deps: DepsOf) -> Response:
    """Download the content of a Data as gzip(tar), or as plain tar if that is accepted first.

    It has files and links, as they are. `Accept: application/tar+gzip;entries=all` (or
    `application/x-tar;entries=all`) adds folders with their permissions and times, named pipes, and
    global headers whose `comment` is `left out by knit: KIND: PATH` for each thing that no archive
    can hold; with `holes=kept`, too, holes of files are kept as GNU tar's sparse format 1.0 does.

    Whatever its Run's status is, if it has a volume. The trailer `x-checksum-md5` of a gzip(tar)
    is the MD5 of the body as it was sent. Over HTTP/1.0 it has a length instead of chunks, and the
    gzip is not compressed.
    """
    media_type, form = wanted_archive(request.headers.get("accept", ""))
    direct = sockets.is_offered(request.scope)
    one = queries.knit_id(knit_id)
    chunks = takes_chunks(request.scope)
    return await transfers.download(deps, one, media_type, form, direct=direct, chunks=chunks)


@router.get("/{knit_id}/metadata", response_model=Data, responses=failures(404, 503))
async def show_data(knit_id: str, store: StoreOf) -> Response:
    """Show a Data with its tags and neighbours, but not its content."""
    return json_response(ToWire().data(await store.data.get(queries.knit_id(knit_id))))


@router.put(
    "/{knit_id}",
    response_model=Data,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(WireTagChange),
)
async def change_tags(knit_id: str, request: Request, store: StoreOf) -> Response:
    """Change the user tags of a Data: removals first, then additions; idempotent."""
    asked = await model_body(request, WireTagChange)
    change = TagChange(
        add=frozenset(map(_tag, asked.add)),
        remove=frozenset(map(_tag, asked.remove)),
        remove_keys=frozenset(checked_tag(key, "").key for key in asked.remove_key),
    )
    queries.refuse_system_keys(
        [*(tag.key for tag in change.add | change.remove), *change.remove_keys]
    )
    one = await store.data.change_tags(queries.knit_id(knit_id), change)
    log.info("Data is tagged", extra={"action": "data_tagged", "knit_id": one.knit_id})
    return json_response(ToWire().data(one))


def _tag(tag: object) -> Tag:
    return checked_tag(tag.key, tag.value)  # type: ignore[attr-defined]
