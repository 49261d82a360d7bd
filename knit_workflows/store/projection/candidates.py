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
    """At most `limit` Data of one input, from the id `low` on (None: from the first)."""

    position: int
    low: str | None
    limit: int


def filled_inputs(knit_id: str) -> str:
    """Gives the statement that reads the inputs of the Data that this expression of SQL means."""
    return named_sql.filled(_SQL["fills"], knit_id=knit_id)


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
    """Gives the Data that fill each input of a Plan, sorted; all inputs in one snapshot."""
    rows = await session.rows(
        _SQL["candidates"],
        {
            "plan_id": plan_id,
            "pivot": None if trigger is None else trigger.position,
            "trigger": None if trigger is None else trigger.knit_id,
            "slow": None if window is None else window.position,
            "low": None if window is None else window.low,
            "most": None if window is None else window.limit,
        },
    )
    return [row.knit_ids for row in rows]
