"""From a commit to the Runs it means: one event of the outbox per transaction.

An event names what changed, not what follows from it: it is evaluated against the base tables when
its turn comes, with a snapshot later than its commit. Of two commits that only together mean a Run,
the event of the later one therefore sees both; if both do, the Run's unique key absorbs the second.

An event is evaluated in *passes*: one per input that its Data fills, or a single one for a new
Plan. A long event stops between two combinations and is put back with that position, behind all
others, so that none keeps another Plan waiting.

Events need no order. The pages of one hold every combination of Data, and every Plan, that are
there from its first page to its last. What comes in between (a Data is done, a Plan is registered,
a tag is added) has committed an event with it, which is evaluated later than that commit, against
all that is there then: whatever of the two is evaluated last finds what they mean together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from psycopg.types.json import Jsonb

from knit_workflows import names
from knit_workflows.domain.matching import Cursor, page
from knit_workflows.domain.ports import THROTTLE_FOR, Projection
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, FollowUp, Session, Statement
from knit_workflows.store.listening import Listener
from knit_workflows.store.projection.candidates import (
    Trigger,
    Window,
    candidates_of,
    filled_inputs,
)
from knit_workflows.store.projection.creation import (
    Combination,
    created_by,
    creating,
    notifying,
    without_run,
)

_SQL: Final = named_sql.beside(__file__)
_TAKE: Final = named_sql.filled(
    _SQL["take"], filled_inputs=filled_inputs("(SELECT subject FROM oldest)")
)

_EXAMINED_PER_CREATED: Final = 10
"""Combinations examined in one transaction per Run it may create: most have a Run already."""


_Projected: TypeAlias = tuple[Projection | None, Sequence[list[Any]] | None]


@dataclass(frozen=True, slots=True)
class _Pass:
    """All combinations of a Plan, or those with the trigger at one input."""

    plan_id: str
    trigger: Trigger | None
    inputs: int | None

    @property
    def order(self) -> tuple[str, int]:
        """The order of this pass within the event."""
        return self.plan_id, -1 if self.trigger is None else self.trigger.position


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a long event continues: the pass, and the last combination (None: from its first)."""

    order: tuple[str, int]
    last: tuple[str, ...] | None

    def to_json(self) -> dict[str, Any]:
        return {"round": list(self.order), "last": self.last and list(self.last)}

    @classmethod
    def from_json(cls, value: Any) -> _Position:
        plan_id, position = value["round"]
        return cls((plan_id, position), value["last"] and tuple(value["last"]))


@dataclass(slots=True)
class _Batch:
    """The combinations found in one transaction, with their positions, and where to continue."""

    found: list[tuple[Combination, _Position]]
    next: _Position | None = None


class PostgresProjectionStore:
    """Implements `ports.ProjectionStore`."""

    def __init__(self, db: Database, listener: Listener) -> None:
        self._db = db
        self._listener = listener

    async def project(self, *, page_size: int) -> Projection | None:
        """See the port."""
        projection, _ = await self.project_and(page_size, [])
        return projection

    async def project_and(self, page_size: int, last: Sequence[Statement]) -> _Projected:
        """Does what `project` does, and the `last` statements in the same transaction.

        Gives their rows; None: more is to be projected first, so that they were not run.
        """

        async def step(session: Session, rows: list[Any]) -> FollowUp[_Projected]:
            if not rows:
                return FollowUp(last, lambda found: (None, found))
            [event] = rows
            batch = await _next_batch(session, event, page_size * _EXAMINED_PER_CREATED)
            wanted = [combination for combination, _ in batch.found]
            if len(wanted) > page_size:
                wanted = await _bounded(session, batch, page_size)
            # The caller admits Runs anyway. If it dies before, another one finds them the next time
            # it looks: after its `fallback` at the latest.
            create = [creating(wanted, cause="projected", wakes=False)] if wanted else []
            again = [] if batch.next is None else _putting_back(event, batch.next)
            has_next = event.has_next or bool(again)

            def projected(found: Sequence[list[Any]]) -> _Projected:
                created = created_by(found[0]) if create else 0
                projection = Projection(event.kind, created, has_next)
                return projection, None if has_next else found[len(create) :]

            return FollowUp([*create, *(again if has_next else last)], projected)

        return await self._db.follow_up((_TAKE, None), step)

    async def wake_ups(self, *, fallback: timedelta) -> AsyncGenerator[None, None]:
        """See the port."""
        with self._listener.subscribe(names.OUTBOX_CHANNEL) as subscription:
            while True:
                yield
                left = THROTTLE_FOR - self._listener.silence(names.THROTTLE_CHANNEL)
                await subscription.wait(min(fallback, left) if left > timedelta() else fallback)


async def _next_batch(session: Session, event: Any, limit: int) -> _Batch:
    """Collects at most `limit` combinations of the event, from its cursor on."""
    start = None if event.cursor is None else _Position.from_json(event.cursor)
    batch = _Batch([])
    for one in _passes(event):
        if start is not None and one.order < start.order:
            continue
        last = start.last if start is not None and one.order == start.order else None
        if len(batch.found) >= limit:
            batch.next = _Position(one.order, last)
        else:
            await _collect(session, batch, one, last, limit)
        if batch.next is not None:
            break
    return batch


def _passes(event: Any) -> list[_Pass]:
    if event.kind == "plan_registered":
        return [_Pass(event.subject, None, None)]
    return [
        _Pass(plan_id, Trigger(position, event.subject), inputs)
        for plan_id, position, inputs in event.filled or []
    ]


async def _collect(
    session: Session, batch: _Batch, one: _Pass, last: tuple[str, ...] | None, limit: int
) -> None:
    room = limit - len(batch.found)
    pivot = None if one.trigger is None else one.trigger.position
    if one.trigger is not None and one.inputs == 1:
        candidates = [[one.trigger.knit_id]]  # filled in the same snapshot
    else:
        window = Window(room, last)
        candidates = await candidates_of(session, one.plan_id, trigger=one.trigger, window=window)
    trigger = None if one.trigger is None else {one.trigger.position: one.trigger.knit_id}
    after = None if last is None else Cursor(pivot, last)
    found = page(candidates, trigger, after, room)
    batch.found += [
        (Combination(one.plan_id, knit_ids), _Position(one.order, knit_ids))
        for knit_ids in found.items
    ]
    if found.next is not None:
        batch.next = _Position(one.order, found.next.last)


async def _bounded(session: Session, batch: _Batch, page_size: int) -> list[Combination]:
    """Selects combinations without a Run, at most `page_size`; the event continues behind them."""
    new = await without_run(session, [combination for combination, _ in batch.found])
    if len(new) > page_size:
        batch.next = batch.found[new[page_size - 1][0]][1]
        del new[page_size:]
    return [combination for _, combination in new]


def _putting_back(event: Any, position: _Position) -> list[Statement]:
    """Gives the statements that put the event back, to be continued from a position in its turn."""
    where = {
        "kind": event.kind,
        "subject": event.subject,
        "cursor": Jsonb(position.to_json()),
        "created_at": event.created_at,
    }
    return [(_SQL["put_back"], where), notifying()]
