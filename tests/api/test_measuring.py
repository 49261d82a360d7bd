"""Requests are measured by route, never by what stands in its places; Runs are counted."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import psycopg
import pytest
from prometheus_client.metrics import MetricWrapperBase

from knit_api.census import Census
from knit_api.deps import Lazy
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.ports import ApiStore
from knit_workflows.metrics.instruments import (
    DATABASE_UP,
    HTTP_DURATION,
    OLDEST_WAITING,
    RUNS,
    TRANSFER_BYTES,
    TRANSFERS_ENDED,
    TRANSFERS_OPEN,
)
from tests.api.archives import tar_of
from tests.memory_store import MemoryStore
from tests.store.build import drain, register, spec, upload

NOWHERE = "11111111-1111-4111-8111-111111111111"


def samples(one: MetricWrapperBase, suffix: str = "") -> Mapping[tuple[str, ...], float]:
    """The values of an instrument by its labels; of counters and histograms the named ones."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in one.collect()
        for sample in metric.samples
        if sample.name.removeprefix(metric.name) == suffix
    }


def requests() -> Mapping[tuple[str, ...], float]:
    """How many requests there were so far, by method, route and status."""
    return samples(HTTP_DURATION, "_count")


async def test_a_request_counts_for_its_route(client: httpx.AsyncClient) -> None:
    key = ("GET", "/api/runs/{run_id}", "4xx")
    before = requests().get(key, 0)
    await client.get(f"/runs/{NOWHERE}")
    await client.get(f"/runs/{NOWHERE}/")
    assert requests()[key] == before + 2
    assert not any(NOWHERE in route for _, route, _ in requests())


async def test_what_nobody_serves_counts_as_such(client: httpx.AsyncClient) -> None:
    key = ("GET", "(none)", "4xx")
    before = requests().get(key, 0)
    await client.get("http://api.test/made/up")
    assert requests()[key] == before + 1


async def test_probes_do_not_count(client: httpx.AsyncClient) -> None:
    """There are more of them than of requests that somebody waits for."""
    before = requests()
    assert (await client.get("http://api.test/healthz")).status_code == 200
    await client.get("http://api.test/readyz")
    assert requests() == before


async def test_a_made_up_method_makes_no_series(client: httpx.AsyncClient) -> None:
    await client.request("BREW", "/runs")
    assert not any(method == "BREW" for method, _, _ in requests())
    assert any(method == "(other)" for method, _, _ in requests())


async def test_transfers_and_their_bytes_are_counted(client: httpx.AsyncClient) -> None:
    archive = tar_of({"a": b"x" * 1000})
    up, down, done = ("upload",), ("download",), ("upload", "complete")
    bytes_before, ended_before = (
        samples(TRANSFER_BYTES, "_total"),
        samples(TRANSFERS_ENDED, "_total"),
    )
    pushed = await client.post(
        "/data", content=archive, headers={"Content-Type": "application/x-tar"}
    )
    assert pushed.status_code == 200
    pulled = await client.get(
        f"/data/{pushed.json()['knitId']}", headers={"Accept": "application/x-tar"}
    )
    after = samples(TRANSFER_BYTES, "_total")
    assert after[up] - bytes_before[up] == len(archive)
    assert after[down] - bytes_before[down] == len(pulled.content)
    assert samples(TRANSFERS_ENDED, "_total")[done] == ended_before.get(done, 0) + 1
    assert set(samples(TRANSFERS_OPEN).values()) == {0}


async def test_runs_are_counted_by_status(store: MemoryStore) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    await upload(store, "k:a")
    await drain(store)
    await Census(Lazy[ApiStore].of(store).get).refresh()
    counted = samples(RUNS)
    assert counted[("waiting",)] == 1
    assert counted[("running",)] == 0  # there, so that nothing has to be guessed
    assert ("done",) not in counted
    assert OLDEST_WAITING._value.get() > 0
    assert DATABASE_UP._value.get() == 1


async def test_a_count_is_kept_for_a_while(store: MemoryStore) -> None:
    census = Census(Lazy[ApiStore].of(store).get, kept=3600)
    await census.refresh()
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    await upload(store, "k:a")
    await drain(store)
    await census.refresh()
    assert samples(RUNS)[("waiting",)] == 0


@pytest.mark.parametrize(
    "problem",
    [StoreUnavailable("it is away"), psycopg.errors.InsufficientPrivilege("run: SELECT")],
    ids=["away", "a right is missing"],
)
async def test_without_a_count_the_database_is_not_up(
    store: MemoryStore, caplog: pytest.LogCaptureFixture, problem: Exception
) -> None:
    census = Census(Lazy[ApiStore].of(store).get, kept=0)
    await census.refresh()
    store.memory.broken = problem
    await census.refresh()
    assert samples(RUNS) == {}
    assert DATABASE_UP._value.get() == 0
    assert "Runs are not counted" in caplog.text
    store.memory.broken = None
    await census.refresh()
    assert DATABASE_UP._value.get() == 1
