"""Activation and deactivation of Plans, page by page, so that a long queue locks nobody out.

Whether a Plan is active is one change, and counts at once: new Runs follow it, and none is admitted
under an inactive Plan, whatever its own status. Runs that are there already move afterwards. What a
call leaves, since it is interrupted or there are very many, a second call moves, or housekeeping.
Of two calls in opposite directions the earlier one stops; the later one moves back what it has
moved.
"""

from __future__ import annotations

import time
from datetime import timedelta
from math import inf
from typing import Final

from knit_workflows import names
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.not_found import missing_plan

_SQL: Final = named_sql.beside(__file__)
_PAGE: Final = 2_000
"""How many Runs are moved in one transaction: what happens to one of them waits that long."""
_MOVES_FOR: Final = timedelta(seconds=20)
"""How long a caller waits for that: the API gives calls of the store up after a minute."""
_CAUSES: Final = {True: "Plan activated", False: "Plan deactivated"}


async def activate(db: Database, plan_id: str, active: bool, *, actor: str) -> None:
    """Activates or deactivates a Plan and moves its Runs, for a while; raises PlanNotFound."""

    async def step(session: Session) -> None:
        wanted = {"plan_id": plan_id, "active": active}
        if await session.row(_SQL["set_active"], wanted) is None:
            raise missing_plan(plan_id)

    await db.transaction(step)
    until = time.monotonic() + _MOVES_FOR.total_seconds()
    await _move(db, plan_id, active, actor=actor, until=until)


async def finish_activations(db: Database, *, actor: str) -> int:
    """Moves the Runs of all Plans that do not stand as these say; gives how many."""
    plans = await db.rows(_SQL["unfinished"])
    return sum([await _move(db, one.plan_id, one.active, actor=actor) for one in plans])


async def _move(db: Database, plan_id: str, active: bool, *, actor: str, until: float = inf) -> int:
    """Moves the Plan's Runs that have not begun, as long as the Plan is (in)active.

    No page is begun after `until`, a time of the monotonic clock.
    """
    ends = (RunStatus.DEACTIVATED.value, RunStatus.WAITING.value)
    source, target = ends if active else reversed(ends)
    parameters = {
        "plan_id": plan_id,
        "active": active,
        "source": source,
        "target": target,
        "cause": _CAUSES[active],
        "actor": actor,
        "most": _PAGE,
        "run_channel": names.RUN_CHANNEL,
        "outbox_channel": names.OUTBOX_CHANNEL,
    }
    moved = 0
    while (page := await db.row(_SQL["move_runs"], parameters)).found:
        moved += page.moved
        if time.monotonic() >= until:
            break
    return moved
