"""Calls the lifecycle hooks of a transition: those before it in order, those after it at once."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final

from temporalio import activity

from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.hooks.calls import Asking, Caller, Hook, HookCalls
from knit_workflows.contracts.hooks import BeforeAnswer, CallHooks, HookActivities
from knit_workflows.contracts.runs import HookCounts
from knit_workflows.domain.errors import Superseded, WorkerEnds
from knit_workflows.domain.hooks import LONGEST_PAUSE, HookAnswer, HookPhase, Hooks, Transition
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import HookStore, RunExecutionStore, RunKey, RunStore
from knit_workflows.domain.runs.run import (
    KNIT,
    PendingReason,
    RunDetail,
    RunEvent,
    RunStatus,
    WaitKind,
)

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = timedelta(seconds=1)
TOLD_AT_ONCE: Final = 50
"""After hooks of one transition: what does not fit into a process's open files would be lost."""


class StoreHookActivities(HookActivities):
    """The calls of hooks, on the parts of a store and a caller."""

    def __init__(
        self, runs: RunStore, execution: RunExecutionStore, hooks: HookStore, caller: Caller
    ) -> None:
        self._runs = runs
        self._execution = execution
        self._hooks = hooks
        self._calls = HookCalls(hooks, caller)

    @activity.defn(name="knit.call_before_hooks")
    async def call_before_hooks(self, request: CallHooks) -> BeforeAnswer:
        """Asks the Before hooks in order, up to the first that does not agree."""
        transition = _transition(request)
        with translated():
            async with heartbeating():
                run = await self._run(transition)
                hooks = await self._hooks.hooks()
                answer = BeforeAnswer(status=run.summary.status, hooks=HookCounts.of(hooks))
                if answer.status is not transition.source:
                    return answer
                pause = _pause(request.attempt)
                failed = await self._ask(hooks, run, transition, pause)
                if failed is None:
                    return answer
                seconds = failed.answer.pause(pause).total_seconds()
                return answer.model_copy(update={"failure": failed.words, "retry_in": seconds})

    @activity.defn(name="knit.call_after_hooks")
    async def call_after_hooks(self, request: CallHooks) -> None:
        """Tells the After hooks of a transition that knit has made, each of them at most once."""
        transition = _transition(request)
        with translated():
            async with heartbeating():
                run = await self._run(transition)
                event = await self._made(transition)
                if event is None:
                    return  # a user's stop came first, and has made it
                shown = _as_of(run, event)
                hooks = await self._hooks.hooks()
                turns = asyncio.Semaphore(TOLD_AT_ONCE)
                calls = (self._tell(url, shown, transition, turns) for url in hooks.after)
                # Each to its end: the outcome of a call that is left would be lost, and it is not
                # made again.
                for outcome in await asyncio.gather(*calls, return_exceptions=True):
                    if outcome is not None:
                        raise outcome

    async def _ask(
        self,
        hooks: Hooks,
        run: RunDetail,
        transition: Transition,
        pause: timedelta,
    ) -> _Failed | None:
        """Asks the whole chain; gives the first that does not agree."""
        environment: dict[str, str] = {}
        starts = transition.target is RunStatus.STARTING
        for number, url in enumerate(hooks.before, start=1):
            hook = Hook(transition, HookPhase.BEFORE, url, number, wants_environment=starts)
            slow = _Failed(number, url, HookAnswer(False, "no answer yet", timedelta()))
            asking = Asking(environment, pause, partial(self._pending, transition, slow))
            answer = await self._calls.call(hook, run, asking)
            if answer is None:
                continue  # skipped by a user
            if not answer.succeeded:
                failed = _Failed(number, url, answer)
                await self._pending(transition, failed)
                return failed
        if starts:
            await self._hooks.keep_environment(transition, environment)
        return None

    async def _pending(self, transition: Transition, failed: _Failed) -> None:
        """Records that the Run waits for a hook."""
        key = RunKey(transition.run_id, transition.generation)
        message = f"before → {transition.target}: {failed.words}"
        reason = PendingReason(WaitKind.HOOK, failed.code, message)
        if await self._execution.hold_up(key, reason, at=transition.source):
            log.info(
                "run is pending: %s",
                message,
                extra={
                    "action": "run_pending",
                    "run_id": key.run_id,
                    "status": str(transition.source),
                    "kind": str(reason.kind),
                    "code": reason.code,
                },
            )

    async def _tell(
        self, url: str, run: RunDetail, transition: Transition, turns: asyncio.Semaphore
    ) -> None:
        async with turns:
            # One that is claimed now and not told any more would be told by nobody.
            if activity.is_worker_shutdown():
                raise WorkerEnds
            await self._calls.call(Hook(transition, HookPhase.AFTER, url), run, Asking())

    async def _run(self, transition: Transition) -> RunDetail:
        run = await self._runs.get(transition.run_id)
        if run.generation != transition.generation:
            raise Superseded(see=transition.run_id)
        return run

    async def _made(self, transition: Transition) -> RunEvent | None:
        """Finds the event of this transition in the Run's history, if knit has made it."""
        wanted = (transition.generation, transition.source, transition.target, KNIT)
        for event in reversed(await self._runs.events(transition.run_id)):
            if (event.generation, event.from_status, event.to_status, event.actor) == wanted:
                return event
        return None


@dataclass(frozen=True, slots=True)
class _Failed:
    """A hook that does not agree; `number` is its place in the list, from 1."""

    number: int
    url: str
    answer: HookAnswer

    @property
    def code(self) -> str:
        """Names the hook and the kind of failure: both are news when they change."""
        return f"hook {self.number}: {self.answer.status_code or 'no answer'}"

    @property
    def words(self) -> str:
        """Says which hook fails and how, in one line."""
        answered = self.answer.status_code is not None
        return f"{self.url}{'' if answered else ':'} {self.answer.text}"


def _as_of(run: RunDetail, event: RunEvent) -> RunDetail:
    """Shows a Run as it was right after that event, even if it has gone on."""
    summary = replace(run.summary, status=event.to_status, updated_at=event.at, exit=event.exit)
    return replace(run, summary=summary)


def _transition(request: CallHooks) -> Transition:
    return Transition(RunId(request.run_id), request.generation, request.source, request.target)


def _pause(attempt: int) -> timedelta:
    """Doubles with each attempt; half of it is left to chance."""
    doubled = FIRST_PAUSE * 2 ** min(attempt - 1, 16)
    longest: timedelta = min(doubled, LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)
