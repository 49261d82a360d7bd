"""`LineageStore` in memory: the plainest walk that there is."""

from __future__ import annotations

from collections.abc import Iterable

from knit_workflows.domain.errors import TooLarge
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.lineage import Edge, Lineage, LineageGraph
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store.not_found import missing_data
from tests.memory_store.details import data_detail, run_detail
from tests.memory_store.memory import Memory, Part


class MemoryLineage(Part):
    """Walks from Data to Runs and on."""

    async def get(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> Lineage:
        graph = await self.graph(knit_id, upstream=upstream, downstream=downstream, limit=limit)
        rows = self.rows
        return Lineage(
            tuple(data_detail(rows, rows.data[one]) for one in graph.data),
            tuple(run_detail(rows, rows.runs[one]) for one in graph.runs),
        )

    async def graph(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> LineageGraph:
        rows = self.rows
        if knit_id not in rows.data:
            raise missing_data(knit_id)
        hops = {
            **_walk(rows, knit_id, downstream, down=True),
            **_walk(rows, knit_id, upstream, down=False),
        }
        run_ids = sorted(hops, key=lambda run_id: hops[run_id])
        _check(len(run_ids), limit, "Runs")
        edges = [edge for run_id in run_ids for edge in _edges(rows, run_id)]
        knit_ids = list(dict.fromkeys([knit_id, *(edge.knit_id for edge in edges)]))
        _check(len(knit_ids), limit, "Data")
        return LineageGraph(tuple(knit_ids), tuple(run_ids), tuple(edges))


def _walk(memory: Memory, start: KnitId, most: int | None, *, down: bool) -> dict[RunId, int]:
    """Gives the Runs of one direction, and how many Runs far each is."""
    found: dict[RunId, int] = {}
    frontier, hop = [start], 0
    while frontier and (most is None or hop < most):
        hop += 1
        beside = dict.fromkeys(run_id for one in frontier for run_id in _runs(memory, one, down))
        new = [run_id for run_id in beside if run_id not in found]
        found |= dict.fromkeys(new, hop)
        frontier = [
            knit_id
            for run_id in new
            for knit_id in (
                memory.runs[run_id].outputs if down else memory.runs[run_id].inputs
            ).values()
        ]
    return found


def _runs(memory: Memory, knit_id: KnitId, down: bool) -> Iterable[RunId]:
    one = memory.data[knit_id]
    if not down:
        return [one.run_id]
    return [run for run in one.users if memory.runs[run].status is not RunStatus.INVALIDATED]


def _edges(memory: Memory, run_id: RunId) -> list[Edge]:
    run = memory.runs[run_id]
    return [
        *(Edge(run_id, knit_id, path, True) for path, knit_id in run.inputs.items()),
        *(Edge(run_id, knit_id, path, False) for path, knit_id in run.outputs.items()),
    ]


def _check(size: int, limit: int, what: str) -> None:
    if size > limit:
        reason = f"the lineage has more than {limit} {what}"
        raise TooLarge(reason, advice="ask for fewer hops, or raise limit")
