"""How many Runs are admitted follows how quickly they end, and whether somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import pytest
from pydantic import SecretStr

from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs import RunQuery, RunStatus
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.store.runs import admission
from tests.store.build import end, fetch, queue_up, register, spec
from tests.waiting import PATIENCE

SHORT = AdmissionLimits(total=2, short=5)
HOUR = timedelta(hours=1)
MOMENT = timedelta(milliseconds=50)


async def admitted(store: PostgresStore, limits: AdmissionLimits) -> list[RunKey]:
    """Admit, and start what is; gives it."""
    keys = [one.key for one in await store.admit(limits)]
    await store.started(keys)
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
    assert len(await admitted(store, SHORT)) == 4
    assert await admitted(store, SHORT) == []
    reasons = {one.waiting.reason for one in await store.find_runs(RunQuery()) if one.waiting}
    assert any("limit of 5 Runs under way reached" in one for one in reasons)
    fetch(
        url, "UPDATE run SET updated_at = updated_at - interval '2 seconds' WHERE status = 'done'"
    )
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
    """Give the store as another process has it."""
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def pushes(store: PostgresStore, _url: str) -> None:
    """Begin to wait for a transfer."""
    await store.attend()


async def stops(store: PostgresStore, url: str) -> None:
    """Stop a Run."""
    [row] = fetch(url, "SELECT run_id FROM run WHERE status = 'waiting'")
    detail = await store.stop(RunId(str(row["run_id"])), fail=True)
    assert detail.summary.status is RunStatus.ABORTING


@pytest.mark.parametrize("waits", [pushes, stops])
async def test_every_process_hears_that_somebody_waits(
    store: PostgresStore,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    waits: Callable[[PostgresStore, str], Awaitable[None]],
) -> None:
    """And the Projector looks again when that has been a while ago, though nothing happens."""
    monkeypatch.setattr(admission, "ATTENDED_FOR", MOMENT)
    queue_up(url, await register(store, spec({"/a": "k:v"})), [1])
    assert store.attended(), "not known yet"
    async with aclosing(store.work(fallback=HOUR)) as work, asyncio.timeout(PATIENCE):
        await anext(work)
        while store.attended():
            await anext(work)
        monkeypatch.setattr(admission, "ATTENDED_FOR", HOUR)
        since = store._listener.silence(admission.names.ATTENDED_CHANNEL)
        async with another(url) as other:
            await waits(other, url)
        while store._listener.silence(admission.names.ATTENDED_CHANNEL) > since:
            await asyncio.sleep(0.01)
        assert store.attended()
        monkeypatch.setattr(admission, "ATTENDED_FOR", MOMENT)
        while store.attended():
            await anext(work)
