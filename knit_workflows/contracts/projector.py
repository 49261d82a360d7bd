"""Messages and the activity of `knit.Projector`, which turns commits into Runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows import names
from knit_workflows.contracts.messages import Message


class ProjectorInput(Message):
    """The Projector of one shard."""

    shard: int = 0
    engine_queue: str
    compute_queue: str
    watch_queue: str
    interactive_queue: str = ""
    hooks_queue: str = names.HOOKS_QUEUE
    heartbeat: timedelta = timedelta(seconds=5)
    drain_for: timedelta = timedelta(minutes=10)
    """How long one drain lasts; it ends at the next wake-up after that."""


class Drained(Message):
    """The result of one drain."""

    events: int = 0
    runs_created: int = 0
    runs_started: int = 0
    next_input: ProjectorInput | None = None
    """The input with the settings of the worker that drained; None: it is an older one."""


class ProjectorActivities(ABC):
    """The activity of `knit.Projector`."""

    @activity.defn(name="knit.drain_outbox")
    @abstractmethod
    async def drain_outbox(self, request: ProjectorInput) -> Drained:
        """Projects, admits, starts and stops Runs as events arrive; returns after some minutes."""
