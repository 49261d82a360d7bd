"""Which Data fill the inputs of a Plan at this moment, according to the base tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session

_SQL: Final = named_sql.beside(__file__)


@dataclass(frozen=True, slots=True)
class FilledInput:
    """An input (by position) of a Plan that a Data fills; `inputs` is how many the Plan has."""

    plan_id: str
    position: int
    inputs: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """A Data that is fixed at one input; no other Data is considered there."""

    position: int
    knit_id: str


@dataclass(frozen=True, slots=True)
class Window:
    """What a page of `room` combinations behind `last` (None: from the first) needs of the Data.

    Think of a row of wheels, one per input but the trigger's, the last of which turns fastest: a
    combination is what they show. A page looks at `room` + 1 of them, to know whether there are
    more. From one to the next each wheel stays, goes one place on, or returns to its first one.
    Until it returns, it is at most `room` + 1 places behind that of `last`, or behind where that
    would be; it returns only from its last place, which it must have reached. Afterwards it is at
    most `room` places behind its first one. So `limit` places from both on are enough: it does not
    come to what lies between or behind them. The slowest wheel never returns.
    """

    room: int
    last: tuple[str, ...] | None

    @property
    def limit(self) -> int:
        """How many Data of an input, from its first and from that of `last` on."""
        return self.room + 2


@dataclass(frozen=True, slots=True)
class Counted:
    """How many Data fill an input, and the first of them."""

    found: int
    first: list[str]


def filled_inputs(knit_id: str) -> str:
    """Gives the statement that reads the inputs of the Data that this expression of SQL means."""
    return named_sql.filled(_SQL["fills"], knit_id=knit_id)


_ALL: Final = dict.fromkeys(("pivot", "trigger", "slow", "last", "most"))
_FILLED: Final = filled_inputs("%(knit_id)s")


async def inputs_filled_by(session: Session, knit_id: str) -> list[FilledInput]:
    """Gives the inputs a Data fills, by Plan and position; none unless its Run is done."""
    rows = await session.rows(_FILLED, {"knit_id": knit_id})
    return [FilledInput(row.plan_id, row.position, row.inputs) for row in rows]


async def candidates_of(
    session: Session,
    plan_id: str,
    *,
    trigger: Trigger | None = None,
    window: Window | None = None,
) -> list[list[str]]:
    """Gives the Data that fill each input of a Plan, sorted; all inputs in one snapshot.

    With a window only those that its page can reach.
    """
    pivot = None if trigger is None else trigger.position
    parameters = {
        "plan_id": plan_id,
        "pivot": pivot,
        "trigger": None if trigger is None else trigger.knit_id,
        "slow": 1 if pivot == 0 else 0,
        "last": None if window is None or window.last is None else list(window.last),
        "most": None if window is None else window.limit,
    }
    return [row.knit_ids for row in await session.rows(_SQL["candidates"], parameters)]


async def count_candidates(session: Session, plan_id: str, *, shown: int = 0) -> list[Counted]:
    """Counts the Data that fill each input of a Plan, and gives so many of the first."""
    rows = await session.rows(_SQL["count"], {**_ALL, "plan_id": plan_id, "shown": shown})
    return [Counted(row.found, row.first) for row in rows]
