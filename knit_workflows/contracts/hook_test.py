"""The test of a hook: messages and activity of `knit.TestHook`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows.contracts.messages import Message
from knit_workflows.domain.hooks import HookPhase


class HookTestInput(Message):
    """Call the hook at `url` with the body of a sample Run; `timeout` bounds the call."""

    url: str
    phase: HookPhase
    timeout: timedelta


class HookTestResult(Message):
    """What became of the call.

    `text` is the beginning of the answer, or why there is none. `environment` has the names of the
    variables that the hook wants in the container; their values may be secrets, and are not kept.
    """

    succeeded: bool
    text: str
    duration: timedelta
    status_code: int | None = None
    environment: tuple[str, ...] = ()


class HookTestActivities(ABC):
    """The call of a hook that belongs to no Run."""

    @activity.defn(name="knit.test_hook")
    @abstractmethod
    async def test_hook(self, request: HookTestInput) -> HookTestResult:
        """Calls the hook once; each call is one more to its receiver."""
