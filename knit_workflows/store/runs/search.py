"""Finds Runs by a query: every page is merged from ranges of an index, one per status and Plan.

If the query names Data, their Runs are looked up first and sorted.
"""

from __future__ import annotations

from typing import Any, Final

from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session
from knit_workflows.store.ids import PackedIds, only_ids, packed_ids

_SQL: Final = named_sql.beside(__file__)

_SHOWN: Final = frozenset(RunStatus) - {RunStatus.INVALIDATED}
_OF_PLANS: Final = "\n CROSS JOIN unnest(%(plan_ids)s::uuid[]) AS of_plan (plan_id)"
_WITH_INPUT: Final = (
    "r.run_id = ANY (ARRAY(SELECT run_id FROM run_input"
    " WHERE knit_id = ANY (%(input_knit_ids)s::uuid[])))"
)
_WITH_OUTPUT: Final = (
    "r.run_id = ANY (ARRAY(SELECT run_id FROM data"
    " WHERE knit_id = ANY (%(output_knit_ids)s::uuid[])))"
)


async def search_runs(
    session: Session, query: RunQuery, after: Cursor | None, limit: int | None
) -> list[str]:
    """Gives at most `limit` ids behind the cursor, which must have its instant.

    Without statuses all but invalidated Runs are found.
    """
    rows = await session.rows(*_statement(query, after, limit))
    return [row.run_id for row in rows]


async def search_all_runs(session: Session, query: RunQuery, after: Cursor | None) -> PackedIds:
    """Gives all ids behind the cursor, as `search_runs` does."""
    return await packed_ids(session, *_statement(query, after, None))


def _statement(
    query: RunQuery, after: Cursor | None, limit: int | None
) -> tuple[str, dict[str, Any]]:
    name, where = _of_data(query) if query.input_knit_ids or query.output_knit_ids else _all(query)
    where += _window(query)
    if after is not None:
        where.append("(r.updated_at, r.run_id) > (%(instant)s, %(after)s::uuid)")
    statement = named_sql.filled(
        _SQL[name],
        of_plan=_OF_PLANS if query.plan_ids else "",
        where=" AND ".join(where),
    )
    return statement, _parameters(query) | _position(after) | {"limit": limit}


def _all(query: RunQuery) -> tuple[str, list[str]]:
    """Gives the name of the statement, and conditions."""
    where = ["r.status = of_status.status"]
    if query.plan_ids:
        where.append("r.plan_id = of_plan.plan_id")
    return "runs", where


def _of_data(query: RunQuery) -> tuple[str, list[str]]:
    where = ["r.status = ANY (%(statuses)s::text[])"]
    if query.plan_ids:
        where.append("r.plan_id = ANY (%(plan_ids)s::uuid[])")
    if query.input_knit_ids:
        where.append(_WITH_INPUT)
    if query.output_knit_ids:
        where.append(_WITH_OUTPUT)
    return "runs_of_data", where


def _window(query: RunQuery) -> list[str]:
    bounds = []
    if query.since is not None:
        bounds.append("r.updated_at >= %(since)s")
    if query.until is not None:
        bounds.append("r.updated_at < %(until)s")
    return bounds


def _parameters(query: RunQuery) -> dict[str, Any]:
    return {
        "statuses": sorted(status.value for status in query.statuses or _SHOWN),
        "plan_ids": only_ids(query.plan_ids),
        "input_knit_ids": only_ids(query.input_knit_ids),
        "output_knit_ids": only_ids(query.output_knit_ids),
        "since": query.since,
        "until": query.until,
    }


def _position(after: Cursor | None) -> dict[str, Any]:
    return {} if after is None else {"after": after.id, "instant": after.instant}
