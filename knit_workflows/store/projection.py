"""From a commit to the Runs it means: one event of the outbox per transaction.

An event names what changed, not what follows from it: it is evaluated against the base tables when
its turn comes, with a snapshot younger than its commit. Of two commits that only together mean a
Run, the one that came second therefore always sees the other; the Run's unique key absorbs it when
both do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from psycopg.types.json import Jsonb

from knit_workflows.domain.matching import Cursor, page
from knit_workflows.domain.ports import Projection
from knit_workflows.store import queries
from knit_workflows.store.candidates import FilledPlan, candidates_of, plans_filled_by
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.creation import (
    Combination,
    create_runs,
    notify_projector,
    without_run,
)

_SQL: Final = queries.load("projection")

_EXAMINED_PER_CREATED: Final = 10
"""Combinations looked at in one transaction, per Run it may create: most are known already."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a long event goes on: behind a combination of a Plan, or at its first one."""

    plan_id: str
    after: Cursor | None

    def to_json(self) -> dict[str, Any]:
        return {"plan_id": self.plan_id, "after": self.after and self.after.to_json()}

    @classmethod
    def from_json(cls, value: Any) -> _Place:
        after = value["after"]
        return cls(value["plan_id"], None if after is None else Cursor.from_json(after))


@dataclass(slots=True)
class _Harvest:
    """The combinations found in one transaction, and where the event goes on (None: finished)."""

    combinations: list[Combination]
    cursors: list[Cursor]
    next: _Place | None = None

    def cut(self, length: int) -> None:
        """Keep the first `length` combinations; the event goes on behind them."""
        last = length - 1
        self.next = _Place(self.combinations[last].plan_id, self.cursors[last])
        del self.combinations[length:], self.cursors[length:]


class ProjectionRows:
    """The part of the store that turns events into Runs."""

    _db: Database

    async def project(self, *, page_size: int) -> Projection | None:
        """Take one outbox event, create the Runs it means. None: no event is waiting."""

        async def step(session: Session) -> Projection | None:
            event = await session.row(_SQL["take"])
            if event is None:
                return None
            harvest = await _harvest(session, event, page_size * _EXAMINED_PER_CREATED)
            wanted = harvest.combinations
            if len(wanted) > page_size:
                wanted = await _bounded(session, harvest, page_size)
            created = await create_runs(session, wanted, cause="projected")
            if harvest.next is not None:
                await _put_back(session, event, harvest.next)
            return Projection(event.kind, created)

        return await self._db.transaction(step)


async def _harvest(session: Session, event: Any, limit: int) -> _Harvest:
    """Collect at most `limit` combinations the event means, from its cursor on."""
    start = None if event.cursor is None else _Place.from_json(event.cursor)
    harvest = _Harvest([], [])
    for plan in await _plans_of(session, event):
        after = None
        if start is not None:
            if plan.plan_id < start.plan_id:
                continue
            after = start.after if plan.plan_id == start.plan_id else None
        if len(harvest.combinations) >= limit:
            harvest.next = _Place(plan.plan_id, after)
            break
        await _harvest_plan(session, harvest, plan, event, after, limit)
        if harvest.next is not None:
            break
    return harvest


async def _plans_of(session: Session, event: Any) -> list[FilledPlan]:
    if event.kind == "plan_registered":
        return [FilledPlan(event.subject, (), 0)]
    return await plans_filled_by(session, event.subject)


async def _harvest_plan(
    session: Session,
    harvest: _Harvest,
    plan: FilledPlan,
    event: Any,
    after: Cursor | None,
    limit: int,
) -> None:
    trigger = dict.fromkeys(plan.positions, event.subject) or None
    if plan.inputs == 1:
        candidates = [[event.subject]]  # the only input is filled, in the snapshot that said so
    else:
        candidates = await candidates_of(session, plan.plan_id)
    found = page(candidates, trigger, after, limit - len(harvest.combinations))
    for knit_ids in found.items:
        harvest.combinations.append(Combination(plan.plan_id, knit_ids))
        harvest.cursors.append(_cursor_at(knit_ids, trigger))
    if found.next is not None:
        harvest.next = _Place(plan.plan_id, found.next)


def _cursor_at(knit_ids: tuple[str, ...], trigger: dict[int, str] | None) -> Cursor:
    """Give the cursor of a combination: its pivot is the first input that holds the trigger."""
    if trigger is None:
        return Cursor(None, knit_ids)
    return Cursor(min(at for at, data in trigger.items() if knit_ids[at] == data), knit_ids)


async def _bounded(session: Session, harvest: _Harvest, page_size: int) -> list[Combination]:
    """Give the combinations without a Run, at most `page_size`; cuts the harvest behind them."""
    new = await without_run(session, harvest.combinations)
    if len(new) > page_size:
        harvest.cut(new[page_size - 1][0] + 1)
        del new[page_size:]
    return [combination for _, combination in new]


async def _put_back(session: Session, event: Any, rest: _Place) -> None:
    """Let the event go on from a place, in its turn."""
    await session.do(
        _SQL["put_back"],
        {
            "event_id": event.event_id,
            "kind": event.kind,
            "subject": event.subject,
            "cursor": Jsonb(rest.to_json()),
            "created_at": event.created_at,
        },
    )
    await notify_projector(session)
