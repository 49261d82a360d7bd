"""One call of one hook: claimed before it is made, and its outcome recorded whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Protocol

from temporalio import activity

from knit_workflows.backoff import Backoff
from knit_workflows.domain.errors import KnitError, Unavailable
from knit_workflows.domain.hooks import HookAnswer, HookPhase, Transition
from knit_workflows.domain.ports import HookStore
from knit_workflows.domain.runs.run import RunDetail
from knit_workflows.hooks.answers import environment_fault
from knit_workflows.hooks.message import HookMessage
from knit_workflows.metrics.instruments import HOOK_DURATION
from knit_workflows.wire.hooks.payload import hook_body

log = logging.getLogger(__name__)

_RECORDING: Final = (0.5, 10.0)
"""Seconds between two attempts to record an outcome: first and most."""
SLOW: Final = timedelta(seconds=3)
"""A Before hook that has not answered by then is what its Run waits for."""
LAST_WORDS: Final = timedelta(seconds=3)
"""How long a worker that ends goes on trying to record what became of the calls it abandons."""


class Caller(Protocol):
    """Calls one hook over HTTP."""

    async def call(self, url: str, message: HookMessage) -> HookAnswer:
        """Calls it once; whatever the receiver or the network does is an answer."""


@dataclass(frozen=True, slots=True)
class Hook:
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


@dataclass(frozen=True, slots=True)
class Asking:
    """What a Before hook is called with besides its Run.

    `environment` has what the hooks before it want in the container's, and gets what it wants;
    `pause` is how long all wait if it fails; `is_slow` is awaited beside the call if it does not
    answer at once.
    """

    environment: dict[str, str] = field(default_factory=dict)
    pause: timedelta | None = None
    is_slow: Callable[[], Awaitable[object]] | None = None


class HookCalls:
    """Makes calls within an activity.

    A cancellation of the activity ends them early, but not the record of their outcome.
    """

    def __init__(self, hooks: HookStore, caller: Caller, *, slow: timedelta = SLOW) -> None:
        self._hooks = hooks
        self._caller = caller
        self._slow = slow

    async def call(self, hook: Hook, run: RunDetail, asking: Asking) -> HookAnswer | None:
        """Calls a hook once and records the outcome; None: it is not to be called."""
        abandoned: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        call = asyncio.create_task(self._called(hook, run, asking, abandoned))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if hook.phase is HookPhase.AFTER:
                # Nobody else would make this call: only the end of the worker ends it.
                await _until_worker_ends(call)
            abandoned.set_result(_why())
            await asyncio.wait({call}, timeout=LAST_WORDS.total_seconds())
            _abandon(call)
            raise

    async def _called(
        self, hook: Hook, run: RunDetail, asking: Asking, abandoned: asyncio.Future[str]
    ) -> HookAnswer | None:
        attempt = await self._hooks.begin(hook.transition, hook.phase, hook.url)
        if attempt is None:
            return None
        body = hook_body(run, hook.transition, attempt)
        message = HookMessage(hook.delivery_id, attempt, body, hook.wants_environment)
        answer = await self._answer(hook, message, asking, abandoned)
        asking.environment.update(answer.environment)
        if fault := environment_fault(asking.environment):
            answer = replace(answer, succeeded=False, text=fault)
        outcome = "succeeded" if answer.succeeded else "failed"
        HOOK_DURATION.labels(hook.phase, outcome).observe(answer.duration.total_seconds())
        _log(hook, attempt, answer)
        again = None if answer.succeeded or asking.pause is None else answer.pause(asking.pause)
        await self._record(hook, attempt, answer, again)
        return answer

    async def _answer(
        self, hook: Hook, message: HookMessage, asking: Asking, abandoned: asyncio.Future[str]
    ) -> HookAnswer:
        """Calls a hook; gives up once it is abandoned, and says why."""
        if abandoned.done():
            return HookAnswer(False, f"{abandoned.result()} before the call", timedelta())
        begun = time.monotonic()
        calling = asyncio.create_task(self._caller.call(hook.url, message))
        # Later attempts have a reason on record, which two in turn would make long.
        is_slow = asking.is_slow if message.attempt == 1 else None
        telling = asyncio.create_task(_tell_after(self._slow, is_slow))
        try:
            futures: set[asyncio.Future[Any]] = {calling, abandoned}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if calling.done():
                return await calling
        finally:
            calling.cancel()
            telling.cancel()
        taken = timedelta(seconds=time.monotonic() - begun)
        return HookAnswer(False, f"{abandoned.result()} before the answer came", taken)

    async def _record(
        self, hook: Hook, attempt: int, answer: HookAnswer, next_in: timedelta | None
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


async def _tell_after(pause: timedelta, tells: Callable[[], Awaitable[object]] | None) -> None:
    """Tells that a call takes long, once it does; a failure to tell is none of the call."""
    if tells is None:
        return
    await asyncio.sleep(pause.total_seconds())
    try:
        await tells()
    except KnitError as error:
        log.warning(
            "what a Run waits for is not on record: %s",
            error.reason,
            extra={"action": "hook_slow"},
        )


async def _until_worker_ends(call: asyncio.Task[HookAnswer | None]) -> None:
    """Waits until a call has ended, but no longer than the worker works."""
    ends = asyncio.create_task(activity.wait_for_worker_shutdown())
    try:
        futures: set[asyncio.Future[Any]] = {call, ends}
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ends.cancel()


def _why() -> str:
    """Says why the activity is cancelled; goes on with "before the answer came"."""
    return "the worker ended" if activity.is_worker_shutdown() else "the Run went on"


def _abandon(call: asyncio.Task[HookAnswer | None]) -> None:
    call.cancel()
    if call.done() and not call.cancelled():
        call.exception()  # nobody is left to see it


def _log(hook: Hook, attempt: int, answer: HookAnswer) -> None:
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
