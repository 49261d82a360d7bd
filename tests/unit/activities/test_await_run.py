"""How many activities keep their slot while they wait for a Run, and what the others do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities.runs.await_run import StoreAwaitRunActivities
from knit_workflows.contracts.runs import FinishedRun, RunRef
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import RunDetail, RunStatus, RunSummary
from tests.waiting import until

FALLBACK = timedelta(seconds=15)
NO_PLAN: Any = None


class OneRun:
    """A store of one Run; it knows how many wait for it."""

    def __init__(self) -> None:
        self.status = RunStatus.WAITING
        self.waiting = 0
        self.is_final = asyncio.Event()

    def end(self) -> None:
        self.status = RunStatus.DONE
        self.is_final.set()

    async def get(self, run_id: RunId) -> RunDetail:
        summary = RunSummary(run_id, self.status, datetime.now(UTC), None, NO_PLAN)
        return RunDetail(summary, 1, (), (), None)

    async def wait_final(self, run_id: RunId, *, fallback: timedelta) -> RunDetail:
        self.waiting += 1
        try:
            await self.is_final.wait()
        finally:
            self.waiting -= 1
        return await self.get(run_id)


def awaiting(store: Any, most_waiting: int) -> StoreAwaitRunActivities:
    return StoreAwaitRunActivities(store, FALLBACK, most_waiting=most_waiting)


def begun(activities: StoreAwaitRunActivities) -> asyncio.Task[FinishedRun]:
    request = RunRef(run_id="r", generation=1)
    return asyncio.ensure_future(ActivityEnvironment().run(activities.await_run, request))


async def test_who_waits_beyond_the_limit_looks_once_and_comes_back_later() -> None:
    """An error on purpose: that alone gives the slot back without a trace in the history."""
    store = OneRun()
    activities = awaiting(store, 2)
    waiting = [begun(activities), begun(activities)]
    await until(lambda: store.waiting == 2)
    with pytest.raises(ApplicationError) as later:
        await begun(activities)
    assert not later.value.non_retryable
    assert later.value.category is ApplicationErrorCategory.BENIGN
    assert later.value.next_retry_delay == FALLBACK
    store.end()
    assert [one.status for one in await asyncio.gather(*waiting)] == ["done", "done"]


async def test_who_comes_back_waits_once_others_have_gone() -> None:
    """Whatever has ended the others: here they were cancelled."""
    store = OneRun()
    activities = awaiting(store, 1)
    first = begun(activities)
    await until(lambda: store.waiting == 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = begun(activities)
    await until(lambda: store.waiting == 1)
    store.end()
    assert (await second).status == "done"


async def test_what_is_final_needs_no_wait() -> None:
    store = OneRun()
    store.end()
    assert (await begun(awaiting(store, 0))).status == "done"
