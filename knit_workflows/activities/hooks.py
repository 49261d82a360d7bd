"""Calls lifecycle hooks, and keeps the record of what became of each call."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Protocol

from temporalio import activity

from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.contracts.hooks import BeforeAnswer, CallHooks, HookActivities
from knit_workflows.contracts.runs import HookCounts
from knit_workflows.domain.errors import Superseded
from knit_workflows.domain.hooks import HookAnswer, HookPhase, Hooks, Transition
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import HookStore, RunExecutionStore, RunKey, RunStore
from knit_workflows.domain.runs import KNIT, PendingReason, RunDetail, RunEvent, RunStatus, WaitKind
from knit_workflows.hooks.answers import environment_fault
from knit_workflows.hooks.message import HookMessage
from knit_workflows.wire.hooks import hook_body

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(seconds=60)
SLOW: Final = timedelta(seconds=3)
"""A Before hook that has not answered by then is what its Run waits for."""
TOLD_AT_ONCE: Final = 50
"""After hooks of one transition: what does not fit into a process's open files would be lost."""


class Caller(Protocol):
    """Calls one hook over HTTP."""

    async def call(self, url: str, message: HookMessage) -> HookAnswer:
        """Calls it once; whatever the receiver or the network does is an answer."""


class StoreHookActivities(HookActivities):
    """The calls of hooks, on the parts of a store and a caller."""

    def __init__(
        self, runs: RunStore, execution: RunExecutionStore, hooks: HookStore, caller: Caller
    ) -> None:
        self._runs = runs
        self._execution = execution
        self._hooks = hooks
        self._caller = caller

    @activity.defn(name="knit.call_before_hooks")
    async def call_before_hooks(self, request: CallHooks) -> BeforeAnswer:
        """Asks the Before hooks in order, up to the first that does not agree."""
        transition = _transition(request)
        with translated():
            async with heartbeating():
                run = await self._run(transition)
                hooks = await self._hooks.hooks()
                answer = BeforeAnswer(status=run.summary.status, hooks=_counts(hooks))
                if answer.status is not transition.source:
                    return answer
                pause = _pause(request.attempt)
                failure = await self._ask(hooks, run, transition, request.attempt, pause)
                if not failure:
                    return answer
                seconds = pause.total_seconds()
                return answer.model_copy(update={"failure": failure, "retry_in": seconds})

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
                told = (self._tell(url, shown, transition, turns) for url in hooks.after)
                await asyncio.gather(*told)

    async def _ask(
        self,
        hooks: Hooks,
        run: RunDetail,
        transition: Transition,
        attempt: int,
        pause: timedelta,
    ) -> str:
        """Asks the whole chain; gives why one does not agree, or nothing."""
        environment: dict[str, str] = {}
        starts = transition.target is RunStatus.STARTING
        for number, url in enumerate(hooks.before, start=1):
            if await self._hooks.begin(transition, HookPhase.BEFORE, url) is None:
                continue  # skipped by a user
            body = hook_body(run, transition, attempt)
            delivery = transition.delivery_id(HookPhase.BEFORE, url)
            message = HookMessage(delivery, attempt, body, starts)
            answer = await self._answer(number, url, message, transition)
            environment |= answer.environment
            if fault := environment_fault(environment):
                answer = replace(answer, succeeded=False, text=fault)
            next_in = None if answer.succeeded else pause
            await self._hooks.ended(transition, HookPhase.BEFORE, url, answer, next_in=next_in)
            _log(transition, HookPhase.BEFORE, url, attempt, answer)
            if not answer.succeeded:
                return await self._pending(transition, _Failed(number, url, answer))
        if starts:
            await self._hooks.keep_environment(transition, environment)
        return ""

    async def _answer(
        self, number: int, url: str, message: HookMessage, transition: Transition
    ) -> HookAnswer:
        """Calls a Before hook; if it does not answer at once, the Run says what it waits for."""
        calling = asyncio.create_task(self._caller.call(url, message))
        try:
            done, _ = await asyncio.wait({calling}, timeout=SLOW.total_seconds())
            # Later attempts have a reason on record, which two in turn would make long.
            if not done and message.attempt == 1:
                slow = HookAnswer(False, "no answer yet", timedelta())
                await self._pending(transition, _Failed(number, url, slow))
            return await calling
        finally:
            calling.cancel()

    async def _pending(self, transition: Transition, failed: _Failed) -> str:
        """Records that the Run waits for a hook; gives why."""
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
        return failed.words

    async def _tell(
        self, url: str, run: RunDetail, transition: Transition, turns: asyncio.Semaphore
    ) -> None:
        async with turns:
            if await self._hooks.begin(transition, HookPhase.AFTER, url) is None:
                return
            delivery = transition.delivery_id(HookPhase.AFTER, url)
            message = HookMessage(delivery, 1, hook_body(run, transition, 1), False)
            answer = await self._caller.call(url, message)
            await self._hooks.ended(transition, HookPhase.AFTER, url, answer)
            _log(transition, HookPhase.AFTER, url, 1, answer)

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


def _counts(hooks: Hooks) -> HookCounts:
    return HookCounts(before=len(hooks.before), after=len(hooks.after))


def _pause(attempt: int) -> timedelta:
    """Doubles with each attempt; half of it is left to chance."""
    doubled = FIRST_PAUSE * 2 ** min(attempt - 1, 16)
    longest: timedelta = min(doubled, LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)


def _log(
    transition: Transition, phase: HookPhase, url: str, attempt: int, answer: HookAnswer
) -> None:
    log.info(
        "hook has %s",
        "succeeded" if answer.succeeded else "failed",
        extra={
            "action": "hook_called",
            "run_id": transition.run_id,
            "generation": transition.generation,
            "phase": str(phase),
            "target": str(transition.target),
            "url": url,
            "attempt": attempt,
            "status_code": answer.status_code,
            "seconds": round(answer.duration.total_seconds(), 3),
        },
    )
