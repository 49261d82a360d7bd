"""`/api/runs`: find, show, stop, retry and delete Runs, read their logs and histories."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from knit_api import pagination
from knit_api.accounts.guard import ActorOf, ProjectsOf
from knit_api.deps import DepsOf, StoreOf
from knit_api.openapi.document import failures, gives_stream
from knit_api.pagination import page_response
from knit_api.parameters import LogOptions, RunFilter, RunIdPath
from knit_api.responses import json_list_response, json_response
from knit_api.server.framing import accepts_chunks
from knit_api.transfers.run_log import MEDIA_TYPE, log_response
from knit_api.whole_lists import at_one_instant, whole_list
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs.timing import timing
from knit_workflows.wire.mapping import ToWire, event_to_wire, timing_to_wire
from knit_workflows.wire.runs import Run, RunEvent, RunTiming

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/runs", tags=["runs"])

KEPT_VOLUME: Final = "Kept-Volume"


@router.get(
    "",
    response_model=list[Run],
    responses=pagination.RESPONSES | failures(400, 426, 503),
)
async def find_runs(
    request: Request, deps: DepsOf, store: StoreOf, query: Annotated[RunFilter, Query()]
) -> Response:
    """Find Runs: values of one filter are alternatives, filters are combined; oldest change first.

    Invalidated (deleted) Runs are not among them. Without `limit` it is each Run that there is when
    the request comes, once, in the order of that instant and as it is when it is sent.
    """
    wanted = query.to_domain()
    if wanted is None:
        return json_response([])
    if query.limit is None:
        parts = at_one_instant(store.runs, wanted, query.cursor)
        timeout = deps.timeouts.write
        return await whole_list(request, parts, lambda: ToWire().run, write_timeout=timeout)
    found = await store.runs.find(wanted, **pagination.bounds(query))
    return await page_response(request, query, found, ToWire().run, pagination.run_cursor)


@router.get("/{run_id}", response_model=Run, responses=failures(404, 503))
async def show_run(run_id: RunIdPath, store: StoreOf) -> Response:
    """Show a Run; invalidated ones too."""
    return json_response(ToWire().run(await store.runs.get(run_id)))


@router.get("/{run_id}/events", response_model=list[RunEvent], responses=failures(404, 503))
async def run_events(run_id: RunIdPath, store: StoreOf) -> Response:
    """List every change of the Run's status, oldest first, with its cause."""
    events = await store.runs.events(run_id)
    return await json_list_response(events, event_to_wire)


@router.get("/{run_id}/timing", response_model=RunTiming, responses=failures(404, 503))
async def run_timing(run_id: RunIdPath, store: StoreOf) -> Response:
    """Show where the time of the Run's newest execution went, by phase."""
    events = await store.runs.events(run_id)
    return json_response(timing_to_wire(timing(events, datetime.now(UTC))))


@router.get(
    "/{run_id}/log",
    response_model=None,
    responses=gives_stream(MEDIA_TYPE) | failures(400, 404, 409, 426, 500, 503),
)
async def run_log(
    run_id: RunIdPath,
    request: Request,
    deps: DepsOf,
    store: StoreOf,
    projects: ProjectsOf,
    options: Annotated[LogOptions, Query()],
) -> Response:
    """Give the log of a Run that has started; 404 when its Plan keeps none.

    What there is has a length. What is followed comes in chunks, and ends without the last one when
    this server ends before the Run; over HTTP/1.0 it is refused (426). An offset past the end is
    409: it is another log than the one that was so long.
    """
    if projects:
        await store.runs.get(run_id)
    return await log_response(
        deps,
        run_id,
        follow=options.follow,
        offset=options.offset,
        chunked=accepts_chunks(request.scope),
    )


@router.put("/{run_id}/abort", response_model=Run, responses=failures(404, 409, 503))
async def abort_run(run_id: RunIdPath, store: StoreOf, actor: ActorOf) -> Response:
    """Stop a Run as failed; its outputs are kept and never used."""
    return await _stop(store, run_id, actor, fail=True)


@router.put("/{run_id}/tearoff", response_model=Run, responses=failures(404, 409, 503))
async def tear_off_run(run_id: RunIdPath, store: StoreOf, actor: ActorOf) -> Response:
    """Stop a Run as done: what it has written so far is good enough.

    Not for uploads and imports, of which only the client knows when they are whole.
    """
    return await _stop(store, run_id, actor, fail=False)


@router.put(
    "/{run_id}/retry",
    status_code=200,
    response_class=Response,
    responses=failures(404, 409, 503),
)
async def retry_run(run_id: RunIdPath, store: StoreOf, actor: ActorOf) -> Response:
    """Carry out a done or failed Run once more, as its next generation with new outputs."""
    run = await store.runs.retry(run_id, actor=actor)
    log.info(
        "Run is retried",
        extra={"action": "run_retried", "run_id": run_id, "generation": run.generation},
    )
    return Response(status_code=200)


@router.delete(
    "/{run_id}", status_code=204, response_class=Response, responses=failures(404, 409, 503)
)
async def delete_run(run_id: RunIdPath, store: StoreOf, actor: ActorOf) -> Response:
    """Delete a Run that is not under way, and its outputs with it; it never runs again.

    The header `Kept-Volume` names a volume that stays, because knit has only adopted it; it is
    percent-encoded.
    """
    kept = await store.runs.delete(run_id, actor=actor)
    log.info(
        "Run is deleted",
        extra={"action": "run_deleted", "run_id": run_id, "kept_volumes": list(kept)},
    )
    response = Response(status_code=204)
    for volume in kept:
        response.headers.append(KEPT_VOLUME, quote(volume))
    return response


async def _stop(store: ApiStore, run_id: RunId, actor: str, *, fail: bool) -> Response:
    run = await store.runs.stop(run_id, fail=fail, actor=actor)
    log.info(
        "Run is being stopped",
        extra={
            "action": "run_stopped",
            "run_id": run_id,
            "fail": fail,
            "status": run.summary.status.value,
        },
    )
    return json_response(ToWire().run(run))
