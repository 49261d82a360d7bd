"""Concurrent registration, tagging and projection: exactly the Runs that a plain model computes.

KNIT_RACE_SECONDS (10) and KNIT_RACE_SEEDS (3) make it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from knit_workflows.domain.ports import AdmissionLimits
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from tests.store.build import drain, fetch, register, runs_in, spec, upload
from tests.store.histories import History, model, projected, run_history, sound

SECONDS = float(os.environ.get("KNIT_RACE_SECONDS", "10"))
PACE = max(1.0, SECONDS / 10)
SEEDS = range(int(os.environ.get("KNIT_RACE_SEEDS", "3")))

pytestmark = [pytest.mark.patient, pytest.mark.timeout(300 + 10 * SECONDS)]


@pytest.fixture
async def victim(url: str) -> AsyncIterator[PostgresStore]:
    """A store of its own, whose connections can be told from the others' and killed."""
    opened = PostgresStore(
        StoreSettings(url=SecretStr(f"{url}&application_name=victim"), pool_size=2)
    )
    yield opened
    await opened.aclose()


@pytest.mark.parametrize("seed", SEEDS)
async def test_growing_histories_give_exactly_the_cross_product(
    store: PostgresStore, victim: PostgresStore, url: str, seed: int
) -> None:
    history = History(seed, pace=PACE)
    await run_history(store, victim, url, history, SECONDS)
    expected = model(url, history)
    there = projected(url)
    assert there == expected, (
        f"missing {len(expected - there)}, too many {len(there - expected)} of {len(expected)}"
    )
    sound(url)
    print(
        f"seed {seed}: {len(there)} Runs, {len(history.data)} Data, {len(history.plans)} Plans,"
        f" {history.killed} consumers killed"
    )


@pytest.mark.parametrize("seed", SEEDS)
async def test_histories_with_removals_give_justified_runs_and_all_that_hold_at_the_end(
    store: PostgresStore, victim: PostgresStore, url: str, seed: int
) -> None:
    history = History(1000 + seed, removals=True, pace=PACE / 2)
    await run_history(store, victim, url, history, SECONDS / 2)
    there = projected(url)
    assert model(url, history) <= there
    assert there <= model(url, history, ever=True)
    sound(url)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_run_waits_under_an_inactive_plan(
    store: PostgresStore, url: str, seed: int
) -> None:
    dice = random.Random(seed)
    plans = [
        await register(store, spec({"/a": "k:a", "/b": "k:a"}, image=f"x:{n}")) for n in range(3)
    ]
    ends = time.monotonic() + SECONDS / 4

    async def flip() -> None:
        while time.monotonic() < ends:
            await store.plans.set_active(dice.choice(plans), dice.random() < 0.5)
            await asyncio.sleep(dice.random() * 0.02)

    async def feed() -> None:
        fed = 0
        while time.monotonic() < ends or fed < 3:
            fed += 1
            await upload(store, "k:a")
            await asyncio.sleep(dice.random() * 0.2)

    async def work() -> None:
        while time.monotonic() < ends:
            await store.projection.project(page_size=5)
            if dice.random() < 0.2:
                admitted = await store.admission.admit(AdmissionLimits(total=20))
                await store.admission.started([one.key for one in admitted if dice.random() < 0.5])

    await asyncio.gather(flip(), flip(), feed(), *(work() for _ in range(3)))
    await drain(store)
    wrong = fetch(
        url,
        "SELECT r.run_id, r.status, p.active FROM run r JOIN plan p USING (plan_id)"
        " WHERE p.name IS NULL AND (r.status = 'waiting') <> p.active",
    )
    assert wrong == []
    assert len(runs_in(url)) > 10
