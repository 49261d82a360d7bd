"""How an installation is at one moment: `ports.SituationStore`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports.situation import (
    COUNTED,
    LATELY,
    Backlog,
    Failure,
    HeldUp,
    Situation,
    StatusCount,
)
from knit_workflows.domain.runs.run import Exit, RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.plans.images import plan_of

_SQL: Final = named_sql.beside(__file__)
_OF_PLANS: Final = "AND plan_id = ANY (%(plan_ids)s::uuid[])"
_SHOWN: Final = 20
_ORDER: Final = tuple(RunStatus)


class PostgresSituationStore:
    """Implements `ports.SituationStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def look(self, *, plan_ids: frozenset[str] | None = None) -> Situation:
        """See the port."""
        # Two statements in one: only without the condition an index alone will do.
        chosen = "" if plan_ids is None else _OF_PLANS
        sql = {name: named_sql.filled(text, of_plans=chosen) for name, text in _SQL.items()}
        params = {
            "plan_ids": sorted(plan_ids or ()),
            "most": _SHOWN,
            "lately": LATELY,
            "counted": COUNTED,
        }
        return await self._db.reading(lambda session: _look(session, sql, params))


async def _look(session: Session, sql: Mapping[str, str], params: Mapping[str, Any]) -> Situation:
    counts = [
        StatusCount(RunStatus(row.status), row.runs, row.since, RunId(row.run_id))
        for row in await session.rows(sql["counts"], params)
    ]
    held_up = [
        HeldUp(row.kind, row.code, row.runs, row.since, RunId(row.run_id), row.message)
        for row in await session.rows(sql["held_up"], params)
    ]
    failures = [_failure(row) for row in await session.rows(sql["failures"], params)]
    rest = await session.row(sql["rest"], params)
    return Situation(
        at=rest.at,
        counts=sorted(counts, key=lambda one: _ORDER.index(one.status)),
        held_up=held_up,
        done=rest.done,
        failed=rest.failed,
        failures=failures,
        backlog=Backlog(
            events=rest.events,
            oldest_event=rest.oldest_event or timedelta(),
            transfers=rest.transfers,
            discarded=rest.discarded,
            total=rest.total,
            per_plan=rest.per_plan,
            held=rest.held or "",
            database_bytes=rest.database_bytes,
        ),
        revision=rest.revision,
    )


def _failure(row: Any) -> Failure:
    exit = None if row.exit_code is None else Exit(row.exit_code, row.exit_message or "")
    return Failure(RunId(row.run_id), row.at, plan_of(row), exit)
