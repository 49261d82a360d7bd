"""Moments at which a worker is killed: an event of a history, a commit, or a condition."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from temporalio.client import WorkflowHandle, WorkflowHistoryEventFilterType
from temporalio.service import RPCError

from tests.chaos.gates import Gate
from tests.waiting import PATIENCE

T = TypeVar("T")

MOST: Final = int(os.environ.get("KNIT_SWEEP_MOMENTS", "6"))
"""How many moments of one sweep are taken, twice as many of a plain Run's; `make soak`: all."""


@dataclass(frozen=True)
class AtEvent:
    """The history of the workflow has so many events; what the worker says next is lost."""

    number: int


@dataclass(frozen=True)
class AtCommit:
    """The worker has sent a COMMIT and hears nothing of it; `kept`: it took place."""

    gate: Gate
    kept: bool

    def __str__(self) -> str:
        return f"the commit of {self.gate.name}, {'kept' if self.kept else 'lost'}"


@dataclass(frozen=True)
class When:
    """Something is the case."""

    name: str
    condition: Callable[[], bool] = field(compare=False)

    def __str__(self) -> str:
        return self.name


Moment: TypeAlias = AtEvent | AtCommit | When


def commits(gates: Sequence[Gate]) -> list[AtCommit]:
    """Gives both ends of every gate."""
    return [AtCommit(gate, kept) for gate in gates for kept in (True, False)]


def chosen(moments: Sequence[T], most: int = MOST) -> list[T]:
    """Gives at most so many of them, evenly, the first and the last included."""
    if len(moments) <= most:
        return list(moments)
    return [moments[round(n * (len(moments) - 1) / (most - 1))] for n in range(most)]


async def reached(handle: WorkflowHandle[Any, Any], event: int) -> None:
    """Waits until a workflow's history has so many events, or has ended in fewer."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                history = handle.fetch_history_events(
                    wait_new_event=True,
                    event_filter_type=WorkflowHistoryEventFilterType.ALL_EVENT,
                )
                async for seen in history:
                    if seen.event_id >= event:
                        return
                return
            except RPCError:
                await asyncio.sleep(0.005)  # The workflow is not there yet.
