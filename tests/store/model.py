"""A plain model of projection: which Runs must exist, worked out with no cleverness at all.

It shares the value types with knit, but none of its matching code, so that the two can be wrong
only independently. It knows a final state only: give it the tags as they are at the end, and use
it for histories in which Data and tags only ever come.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from knit_workflows.domain.plans.model import Requirement
from knit_workflows.domain.tags import Tag


@dataclass(frozen=True)
class ModelData:
    """A Data at the end of the history; `done` says whether the Run that made it is done."""

    knit_id: str
    tags: frozenset[Tag]
    done: bool = True
    timestamp: datetime | None = None


@dataclass(frozen=True)
class ModelPlan:
    """A Plan: an id, and its inputs in the order of their ordinals."""

    plan_id: str
    inputs: tuple[Requirement, ...]


ModelRun = tuple[str, tuple[str, ...]]
"""A Run as (plan id, knit ids in the order of the Plan's inputs)."""


def fills(data: ModelData, wish: Requirement) -> bool:
    """Whether a Data fills an input: tags-and-projection.md §3, line by line."""
    if not data.done:
        return False
    for tag in wish.tags:
        if tag not in data.tags:
            return False
    if wish.knit_id is not None and wish.knit_id != data.knit_id:
        return False
    if wish.timestamp is not None:
        if data.timestamp is None:
            return False
        if int(wish.timestamp.timestamp() * 1000) != int(data.timestamp.timestamp() * 1000):
            return False
    return bool(wish.tags) or wish.knit_id is not None or wish.timestamp is not None


def expected_runs(data: Iterable[ModelData], plans: Iterable[ModelPlan]) -> set[ModelRun]:
    """Every combination of satisfying Data, over the full cross product, exactly once."""
    everything = list(data)
    return {
        (plan.plan_id, tuple(one.knit_id for one in combination))
        for plan in plans
        for combination in product(everything, repeat=len(plan.inputs))
        if all(fills(one, wish) for one, wish in zip(combination, plan.inputs, strict=True))
    }
