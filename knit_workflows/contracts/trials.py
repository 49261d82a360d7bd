"""Messages and activity of `knit.TryPlan`, which asks the back-end about a Plan for the API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any

from pydantic import Field
from temporalio import activity

from knit_workflows.contracts.messages import Message


class TryPlan(Message):
    """A Plan that is not registered, as its document."""

    document: dict[str, Any]


class TrialInput(TryPlan):
    """The same, and where it is tried."""

    compute_queue: str
    heartbeat: timedelta = timedelta(seconds=20)


class TrialResult(Message):
    """What the back-end says, as in `compute.base.Trial`; or why it says nothing: it is away."""

    refusals: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    unchecked: list[str] = Field(default_factory=list)
    kind: str = ""
    """Name of the domain error."""
    reason: str = ""
    advice: str = ""


class TrialActivities(ABC):
    """The activity of `knit.TryPlan`."""

    @activity.defn(name="knit.try_plan")
    @abstractmethod
    async def try_plan(self, request: TryPlan) -> TrialResult:
        """Asks the back-end."""
