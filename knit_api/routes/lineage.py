"""`/api/data/{knitId}/lineage`: what a Data came from, and what came of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from knit_api.deps import StoreOf
from knit_api.openapi.document import failures
from knit_api.parameters import KnitIdPath, LineageOptions
from knit_api.responses import json_response
from knit_workflows.domain import lineage as domain
from knit_workflows.wire.base import Wire
from knit_workflows.wire.lineage import Lineage, LineageGraph
from knit_workflows.wire.mapping import ToWire

router = APIRouter(prefix="/api/data", tags=["data"])


@router.get(
    "/{knit_id}/lineage",
    response_model=Lineage | LineageGraph,
    responses=failures(400, 404, 409, 503),
)
async def show_lineage(
    knit_id: KnitIdPath, store: StoreOf, options: Annotated[LineageOptions, Query()]
) -> Response:
    """Show what a Data came from and what came of it, the nearest first.

    A Run that is reached comes with all its inputs, outputs and log; only those in the direction
    of the walk are followed further. Deleted Runs are not followed downstream. What does not belong
    to the projects of a caller who is bound to some is not shown; `left_out` counts it.
    """
    options.check()
    upstream, downstream = options.hops()
    read = store.lineage.graph if options.fields else store.lineage.get
    found = await read(knit_id, upstream=upstream, downstream=downstream, limit=options.limit)
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
            **_left_out(found.left_out),
        }
    )


def _graph_response(graph: domain.LineageGraph) -> Response:
    edges = [
        {
            "from": edge.knit_id if edge.into_run else edge.run_id,
            "to": edge.run_id if edge.into_run else edge.knit_id,
            "label": "(log)" if edge.path is None else edge.path,
        }
        for edge in graph.edges
    ]
    return json_response(
        {
            "data": graph.data,
            "runs": graph.runs,
            "edges": edges,
            **_left_out(graph.left_out),
        }
    )


def _left_out(count: int) -> Wire:
    return {"left_out": count} if count else {}
