"""Messages and activities of lifecycle hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from temporalio import activity

from knit_workflows.contracts.messages import Message
from knit_workflows.contracts.runs import HookCounts
from knit_workflows.domain.runs.run import RunStatus


class CallHooks(Message):
    """Call the hooks of one transition; `attempt` counts from 1."""

    run_id: str
    generation: int
    source: RunStatus
    target: RunStatus
    attempt: int = 1


class BeforeAnswer(Message):
    """What the Before hooks say.

    All agree if `failure` is empty; otherwise it says which one does not and why, and all are asked
    again after `retry_in` seconds. `status` is the Run's: it may have moved on by itself meanwhile.
    """

    status: RunStatus
    hooks: HookCounts
    failure: str = ""
    retry_in: float = 0.0


class HookActivities(ABC):
    """The calls of hooks. Each may run twice or die half-way."""

    @activity.defn(name="knit.call_before_hooks")
    @abstractmethod
    async def call_before_hooks(self, request: CallHooks) -> BeforeAnswer:
        """Asks the Before hooks in order, up to the first that does not agree."""

    @activity.defn(name="knit.call_after_hooks")
    @abstractmethod
    async def call_after_hooks(self, request: CallHooks) -> None:
        """Tells the After hooks of a transition that knit has made, each of them at most once."""
