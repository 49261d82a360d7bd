"""`/api/data/{knitId}/lineage`: what a Data came from, and what came of it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from knit_api import queries
from knit_api.deps import StoreOf
from knit_api.openapi import document
from knit_api.openapi.document import failures
from knit_api.responses import json_response
from knit_workflows.domain import lineage as domain
from knit_workflows.wire.lineage import Lineage, LineageGraph
from knit_workflows.wire.mapping import ToWire

router = APIRouter(prefix="/api/data", tags=["data"])

_PARAMETERS = [
    document.query("upstream", "how many Runs far back, or `all`; both absent: 3 both ways"),
    document.query("downstream", "how many Runs far on, or `all`; both absent: 3 both ways"),
    document.query(
        "limit",
        f"at most so many Data, and Runs: 1 to {queries.MOST_IN_FULL} (the default),"
        f" with `fields=ids` to {queries.MOST_IDS}; a larger lineage is a conflict",
        kind="integer",
    ),
    document.query("fields", "`ids`: nothing but ids and edges, some ten times as fast"),
]


@router.get(
    "/{knit_id}/lineage",
    response_model=Lineage | LineageGraph,
    responses=failures(400, 404, 409, 503),
    openapi_extra={"parameters": _PARAMETERS},
)
async def show_lineage(knit_id: str, request: Request, store: StoreOf) -> Response:
    """Show what a Data came from and what came of it, the nearest first.

    A Run that is reached comes with all its inputs, outputs and log; only those in the direction
    of the walk are followed further. Deleted Runs are not followed downstream.
    """
    query = queries.lineage_query(request.query_params)
    read = store.lineage.graph if query.only_ids else store.lineage.get
    found = await read(
        queries.knit_id(knit_id),
        upstream=query.upstream,
        downstream=query.downstream,
        limit=query.limit,
    )
    # Large ones take a while, in which others are to be served too.
    return await asyncio.to_thread(_response, found)


def _response(found: domain.Lineage | domain.LineageGraph) -> Response:
    if isinstance(found, domain.LineageGraph):
        return _graph_response(found)
    to_wire = ToWire()
    return json_response(
        {
            "data": [to_wire.data(one) for one in found.data],
            "runs": [to_wire.run(one) for one in found.runs],
        }
    )


def _graph_response(graph: domain.LineageGraph) -> Response:
    edges = [
        {
            "from": tie.knit_id if tie.into_run else tie.run_id,
            "to": tie.run_id if tie.into_run else tie.knit_id,
            "label": "(log)" if tie.path is None else tie.path,
        }
        for tie in graph.ties
    ]
    return json_response({"data": graph.data, "runs": graph.runs, "edges": edges})
