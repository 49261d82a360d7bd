"""Which Data fill the inputs of a Plan, as the base tables say at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from knit_workflows.store import queries
from knit_workflows.store.connection import Session

_SQL: Final = queries.load("projection")


@dataclass(frozen=True, slots=True)
class FilledPlan:
    """A Plan with those of its inputs (by position) that one Data fills, and all it has."""

    plan_id: str
    positions: tuple[int, ...]
    inputs: int


async def plans_filled_by(session: Session, knit_id: str) -> list[FilledPlan]:
    """Give the Plans of which a Data fills an input, by id; none unless its Run is done."""
    found: dict[str, tuple[list[int], int]] = {}
    for row in await session.rows(_SQL["fills"], {"knit_id": knit_id}):
        found.setdefault(row.plan_id, ([], row.inputs))[0].append(row.position)
    return [FilledPlan(plan_id, tuple(at), width) for plan_id, (at, width) in found.items()]


async def candidates_of(session: Session, plan_id: str) -> list[list[str]]:
    """Give the Data that fill each input of a Plan, sorted; all inputs in one snapshot."""
    rows = await session.rows(_SQL["candidates"], {"plan_id": plan_id})
    return [row.knit_ids for row in rows]
