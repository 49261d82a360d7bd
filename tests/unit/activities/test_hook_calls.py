"""One call of one hook, while the database is away."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from knit_workflows.activities.hooks.calls import Asking, Hook, HookCalls
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.hooks import HookAnswer, HookPhase, Transition
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.hooks.message import HookMessage
from tests.memory_store import MemoryStore
from tests.waiting import PATIENCE

AGREED = HookAnswer(True, "", timedelta(milliseconds=7), 200)


class Record:
    """Remembers the outcomes of calls."""

    def __init__(self) -> None:
        self.outcomes: list[HookAnswer] = []

    async def begin(self, transition: Transition, phase: HookPhase, url: str) -> int:
        return 1

    async def ended(
        self,
        transition: Transition,
        phase: HookPhase,
        url: str,
        answer: HookAnswer,
        **more: object,
    ) -> None:
        self.outcomes.append(answer)


class SlowReceiver:
    """Agrees once it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.cancelled = False

    async def call(self, url: str, message: HookMessage) -> HookAnswer:
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return AGREED


async def answer_to(record: Record, receiver: SlowReceiver, asking: Asking) -> HookAnswer | None:
    """Calls a Before hook; every call that is not answered at once is slow."""
    run = MemoryStore().add_run(RunStatus.READY)
    transition = Transition(run.summary.run_id, 1, RunStatus.READY, RunStatus.STARTING)
    hook = Hook(transition, HookPhase.BEFORE, "http://hooks.example/a", 1)
    slow = timedelta(milliseconds=10)
    calls = HookCalls(record, receiver, slow=slow)  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE):
        return await calls.call(hook, run, asking)


async def test_a_call_outlives_an_outage_of_the_database() -> None:
    """That it is slow cannot be told; its answer counts, and is on record once."""
    record, receiver = Record(), SlowReceiver()

    async def is_slow() -> None:
        asyncio.get_running_loop().call_later(0.05, receiver.may_answer.set)
        raise StoreUnavailable

    assert await answer_to(record, receiver, Asking(is_slow=is_slow)) == AGREED
    assert record.outcomes == [AGREED]
    assert not receiver.cancelled


async def test_a_database_that_hangs_delays_no_answer() -> None:
    record, receiver = Record(), SlowReceiver()

    async def is_slow() -> None:
        receiver.may_answer.set()
        await asyncio.Event().wait()

    assert await answer_to(record, receiver, Asking(is_slow=is_slow)) == AGREED
    assert record.outcomes == [AGREED]
