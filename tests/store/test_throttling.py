"""How many Runs are admitted adapts to how quickly they end, and to users who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import pytest
from pydantic import SecretStr

from knit_workflows import names
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.store.projection import projection_store
from knit_workflows.store.runs import admission
from tests.store.build import end, fetch, queue_up, register, spec
from tests.waiting import PATIENCE

SHORT = AdmissionLimits(total=2, short=5)
HOUR = timedelta(hours=1)
MOMENT = timedelta(milliseconds=50)


async def admitted(store: PostgresStore, limits: AdmissionLimits) -> list[RunKey]:
    """Admits Runs and records them as started; gives their keys."""
    keys = [one.key for one in await store.admission.admit(limits)]
    await store.admission.started(keys)
    return keys


async def test_more_runs_at_once_while_they_come_and_go(store: PostgresStore, url: str) -> None:
    """As soon as as many as there are places have ended within two seconds, and no longer."""
    plan = await register(store, spec({"/a": "k:v"}))
    queue_up(url, plan, range(20))
    first, second = await admitted(store, SHORT)
    assert await admitted(store, SHORT) == []
    await end(store, first)
    [third] = await admitted(store, SHORT)
    await end(store, second)
    ended = "UPDATE run SET updated_at = now() + %s::interval WHERE status = 'done'"
    fetch(url, ended, "1 hour")  # however long this test takes, it was just now
    assert len(await admitted(store, SHORT)) == 4
    assert await admitted(store, SHORT) == []
    reasons = {one.waiting.reason for one in await store.runs.find(RunQuery()) if one.waiting}
    assert any("limit of 5 Runs under way reached" in one for one in reasons)
    fetch(url, ended, "-2 seconds")
    await end(store, third)
    assert await admitted(store, SHORT) == []


async def test_without_such_a_limit_quick_runs_get_no_more_places(
    store: PostgresStore, url: str
) -> None:
    plan = await register(store, spec({"/a": "k:v"}))
    queue_up(url, plan, range(9))
    for key in await admitted(store, AdmissionLimits(total=2)):
        await end(store, key)
    assert len(await admitted(store, AdmissionLimits(total=2))) == 2


@asynccontextmanager
async def another(url: str) -> AsyncIterator[PostgresStore]:
    """Gives the store as another process has it."""
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def pushes(store: PostgresStore, _url: str) -> None:
    """Begins to wait for a transfer."""
    await store.transfers.announce()


async def stops(store: PostgresStore, url: str) -> None:
    """Stops a Run."""
    [row] = fetch(url, "SELECT run_id FROM run WHERE status = 'waiting'")
    detail = await store.runs.stop(RunId(str(row["run_id"])), fail=True)
    assert detail.summary.status is RunStatus.ABORTING


def throttle_for(monkeypatch: pytest.MonkeyPatch, duration: timedelta) -> None:
    """Has the throttle last for so long."""
    for module in (admission, projection_store):
        monkeypatch.setattr(module, "THROTTLE_FOR", duration)


@pytest.mark.parametrize("waits", [pushes, stops])
async def test_every_process_hears_that_somebody_waits(
    store: PostgresStore,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    waits: Callable[[PostgresStore, str], Awaitable[None]],
) -> None:
    """And the Projector looks again when that has been a while ago, though nothing happens."""
    throttle_for(monkeypatch, MOMENT)
    queue_up(url, await register(store, spec({"/a": "k:v"})), [1])
    assert store.admission.throttled(), "not known yet"
    async with (
        aclosing(store.projection.wake_ups(fallback=HOUR)) as work,
        asyncio.timeout(PATIENCE),
    ):
        await anext(work)
        while store.admission.throttled():
            await anext(work)
        throttle_for(monkeypatch, HOUR)
        before = store._listener._notified_at[names.THROTTLE_CHANNEL]
        async with another(url) as other:
            await waits(other, url)
        while store._listener._notified_at[names.THROTTLE_CHANNEL] == before:
            await asyncio.sleep(0.01)
        assert store.admission.throttled()
        throttle_for(monkeypatch, MOMENT)
        while store.admission.throttled():
            await anext(work)
