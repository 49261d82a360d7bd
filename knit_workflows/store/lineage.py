"""Lineage: walks Runs and Data in both directions, with a single statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from knit_workflows.domain.errors import TooLarge
from knit_workflows.domain.ids import KnitId, RunId, is_id
from knit_workflows.domain.lineage import Edge, Lineage, LineageGraph
from knit_workflows.domain.runs.run import RunDetail
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.ids import id_array
from knit_workflows.store.not_found import missing_data
from knit_workflows.store.runs.details import data_details, run_details

_SQL: Final = named_sql.beside(__file__)

_ALL: Final = 2_147_483_647
"""More hops than any lineage can have."""


class PostgresLineageStore:
    """Implements `ports.LineageStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> Lineage:
        """See the port."""

        async def read(session: Session) -> Lineage:
            run_ids = await _walk(session, knit_id, upstream, downstream, limit)
            runs = await run_details(session, run_ids)
            knit_ids = _distinct(knit_id, _assigned(runs), limit)
            return Lineage(tuple(await data_details(session, knit_ids)), tuple(runs))

        return await self._db.reading(read)

    async def graph(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> LineageGraph:
        """See the port."""

        async def read(session: Session) -> LineageGraph:
            run_ids = await _walk(session, knit_id, upstream, downstream, limit)
            edges = await _edges(session, run_ids)
            knit_ids = _distinct(knit_id, (edge.knit_id for edge in edges), limit)
            return LineageGraph(tuple(knit_ids), tuple(map(RunId, run_ids)), tuple(edges))

        return await self._db.reading(read)


async def _walk(
    session: Session, knit_id: str, upstream: int | None, downstream: int | None, limit: int
) -> list[str]:
    """Gives the Runs, nearest first; raises DataNotFound, TooLarge beyond `limit` of them."""
    if not is_id(knit_id) or await session.row(_SQL["exists"], {"knit_id": knit_id}) is None:
        raise missing_data(knit_id)
    row = await session.row(
        _SQL["walk"],
        {
            "knit_id": knit_id,
            "upstream": _hops(upstream),
            "downstream": _hops(downstream),
            "most": limit + 1,
        },
    )
    # A Run is found in both directions only in a cycle, which only manual changes can create.
    run_ids = list(dict.fromkeys(row.run_ids or ()))
    _check_size(len(run_ids), limit, "Runs")
    return run_ids


async def _edges(session: Session, run_ids: list[str]) -> list[Edge]:
    """Gives the inputs and outputs of these Runs, Run by Run in this order."""
    if not run_ids:
        return []
    row = await session.row(_SQL["edges"], {"run_ids": id_array(run_ids)})
    columns = (row.run_ids, row.knit_ids, row.paths, row.into_run)
    return list(map(Edge, *columns)) if row.run_ids else []


def _hops(wanted: int | None) -> int:
    return _ALL if wanted is None else min(wanted, _ALL)


def _assigned(runs: Iterable[RunDetail]) -> Iterable[KnitId]:
    """Gives the Data of these Runs, Run by Run: inputs, outputs, log; without discarded ones."""
    for run in runs:
        log = () if run.log is None else (run.log,)
        for one in (*run.inputs, *run.outputs, *log):
            if one.knit_id is not None:
                yield one.knit_id


def _distinct(start: KnitId, others: Iterable[KnitId], limit: int) -> list[KnitId]:
    """Gives all these Data once, `start` first; raises TooLarge beyond `limit`."""
    found = list(dict.fromkeys([start, *others]))
    _check_size(len(found), limit, "Data")
    return found


def _check_size(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise TooLarge(
            f"the lineage has more than {limit} {what}",
            advice="ask for fewer hops (upstream, downstream), or raise limit",
        )
