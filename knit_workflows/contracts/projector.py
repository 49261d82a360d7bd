"""Turning commits into Runs: messages and the activity of `knit.Projector`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows.contracts.messages import Message


class ProjectorInput(Message):
    """One shard's Projector."""

    shard: int = 0
    engine_queue: str
    compute_queue: str
    watch_queue: str
    interactive_queue: str = ""
    heartbeat: timedelta = timedelta(seconds=5)
    drain_for: timedelta = timedelta(minutes=10)
    """How long one drain lasts; it ends at the next pause after that."""


class Drained(Message):
    """What one long drain did."""

    events: int = 0
    runs_created: int = 0
    runs_started: int = 0


class ProjectorActivities(ABC):
    """What `knit.Projector` does in the world."""

    @activity.defn(name="knit.drain_outbox")
    @abstractmethod
    async def drain_outbox(self, request: ProjectorInput) -> Drained:
        """Projects, admits, starts and stops Runs as events come in; returns after some minutes."""
