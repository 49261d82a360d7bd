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
from knit_workflows.backoff import Backoff
from knit_workflows.contracts.hooks import BeforeAnswer, CallHooks, HookActivities
from knit_workflows.contracts.runs import HookCounts
from knit_workflows.domain.errors import Superseded, Unavailable
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
_RECORDING: Final = (0.5, 10.0)
"""Seconds between two attempts to record an outcome: first and most."""
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
                failure = await self._ask(hooks, run, transition, pause)
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
    ) -> str:
        """Asks the whole chain; gives why one does not agree, or nothing."""
        environment: dict[str, str] = {}
        starts = transition.target is RunStatus.STARTING
        for number, url in enumerate(hooks.before, start=1):
            hook = _Hook(transition, HookPhase.BEFORE, url, number, wants_environment=starts)
            answer = await self._call(hook, run, environment, pause)
            if answer is None:
                continue  # skipped by a user
            if not answer.succeeded:
                return await self._pending(transition, _Failed(number, url, answer))
        if starts:
            await self._hooks.keep_environment(transition, environment)
        return ""

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
            await self._call(_Hook(transition, HookPhase.AFTER, url), run, {})

    async def _call(
        self,
        hook: _Hook,
        run: RunDetail,
        environment: dict[str, str],
        pause: timedelta | None = None,
    ) -> HookAnswer | None:
        """Calls a hook once and records the outcome; None: it is not to be called.

        Adds what it wants in the container's environment to `environment`.
        """
        attempt = await self._hooks.begin(hook.transition, hook.phase, hook.url)
        if attempt is None:
            return None
        body = hook_body(run, hook.transition, attempt)
        message = HookMessage(hook.delivery_id, attempt, body, hook.wants_environment)
        answer = await self._answer(hook, message)
        environment |= answer.environment
        if fault := environment_fault(environment):
            answer = replace(answer, succeeded=False, text=fault)
        _log(hook, attempt, answer)
        await self._record(hook, attempt, answer, None if answer.succeeded else pause)
        return answer

    async def _answer(self, hook: _Hook, message: HookMessage) -> HookAnswer:
        """Calls a hook; a Run says so if its Before hook does not answer at once."""
        # Later attempts have a reason on record, which two in turn would make long.
        if hook.phase is HookPhase.AFTER or message.attempt > 1:
            return await self._caller.call(hook.url, message)
        calling = asyncio.create_task(self._caller.call(hook.url, message))
        try:
            done, _ = await asyncio.wait({calling}, timeout=SLOW.total_seconds())
            if not done:
                slow = HookAnswer(False, "no answer yet", timedelta())
                await self._pending(hook.transition, _Failed(hook.number, hook.url, slow))
            return await calling
        finally:
            calling.cancel()

    async def _record(
        self, hook: _Hook, attempt: int, answer: HookAnswer, next_in: timedelta | None
    ) -> None:
        """Records an outcome, after an outage of the database too: nobody else knows it."""
        backoff = Backoff(*_RECORDING)
        while True:
            try:
                return await self._hooks.ended(
                    hook.transition, hook.phase, hook.url, answer, attempt=attempt, next_in=next_in
                )
            except Unavailable:
                await asyncio.sleep(backoff.next())

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


@dataclass(frozen=True, slots=True)
class _Hook:
    """One hook and what it is called for; `number` is the place of a Before hook, from 1."""

    transition: Transition
    phase: HookPhase
    url: str
    number: int = 0
    wants_environment: bool = False

    @property
    def delivery_id(self) -> str:
        """The id of the delivery."""
        return self.transition.delivery_id(self.phase, self.url)


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


def _log(hook: _Hook, attempt: int, answer: HookAnswer) -> None:
    log.info(
        "hook has %s",
        "succeeded" if answer.succeeded else "failed",
        extra={
            "action": "hook_called",
            "run_id": hook.transition.run_id,
            "generation": hook.transition.generation,
            "phase": str(hook.phase),
            "target": str(hook.transition.target),
            "url": hook.url,
            "attempt": attempt,
            "status_code": answer.status_code,
            "seconds": round(answer.duration.total_seconds(), 3),
        },
    )
