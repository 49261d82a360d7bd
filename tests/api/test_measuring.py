"""Requests are measured by route, never by what stands in its places; Runs are counted."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

import httpx
import psycopg
import pytest
from prometheus_client.metrics import MetricWrapperBase

from knit_api.census import COUNTED, Census
from knit_api.deps import Lazy
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.ids import PlanId, RunId
from knit_workflows.domain.ports import ApiStore, RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.metrics.instruments import (
    DATABASE_UP,
    HTTP_DURATION,
    MOST_PLANS,
    OLDEST_WAITING,
    OTHER_PLANS,
    PLAN_RUNS,
    RUNS,
    TRANSFER_BYTES,
    TRANSFERS_ENDED,
    TRANSFERS_OPEN,
)
from tests.api.archives import tar_of
from tests.memory_store import MemoryStore
from tests.memory_store.memory import PlanRow, RunRow
from tests.store.build import drain, end, register, spec, upload

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


def put_runs(store: MemoryStore, image: str, *statuses: RunStatus) -> str:
    """Puts a Plan and its Runs there; to register a thousand takes seconds."""
    rows, plan_id = store.memory, PlanId(str(uuid4()))
    rows.plans[plan_id] = PlanRow(plan_id, spec({"/in": "k:a"}, image=image), rows.now())
    for status in statuses:
        run_id = RunId(str(uuid4()))
        rows.runs[run_id] = RunRow(run_id, plan_id, status, rows.now(), rows.now())
    return plan_id


async def test_however_many_plans_there_are_few_have_series(store: MemoryStore) -> None:
    """Those with the most Runs; with the others together they are all Runs of each status."""
    waiting, ready = RunStatus.WAITING, RunStatus.READY
    quiet = [put_runs(store, f"quiet:{n}", waiting) for n in range(995)]
    busy = [put_runs(store, f"busy:{n}", waiting, ready, ready) for n in range(5)]
    await Census(Lazy[ApiStore].of(store).get).refresh()

    counted, of_plans = samples(RUNS), samples(PLAN_RUNS)
    assert (counted[("waiting",)], counted[("ready",)]) == (1000, 10)
    assert len(of_plans) == (MOST_PLANS + 1) * len(COUNTED) == 147
    named = {*busy, *sorted(quiet)[: MOST_PLANS - 5]}
    assert {plan_id for plan_id, _, _ in of_plans} == named | {OTHER_PLANS}
    for status in COUNTED:
        of_status = [value for (_, _, other), value in of_plans.items() if other == status]
        assert sum(of_status) == counted[(status,)]
    assert of_plans[(busy[0], "busy:0", "ready")] == 2
    assert of_plans[(busy[0], "busy:0", "running")] == 0
    assert of_plans[(OTHER_PLANS, OTHER_PLANS, "waiting")] == 1000 - MOST_PLANS


async def test_a_plan_whose_runs_have_ended_has_no_series_any_more(store: MemoryStore) -> None:
    census = Census(Lazy[ApiStore].of(store).get, kept=0)
    plan_id = await register(store, spec({"/in": "k:a"}))
    await upload(store, "k:a")
    await drain(store)
    await census.refresh()
    assert samples(PLAN_RUNS)[(plan_id, "demo:1", "waiting")] == 1
    [run] = await store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
    await store.execution.advance(RunKey(run.summary.run_id, 1), RunStatus.READY, cause="test")
    await end(store, RunKey(run.summary.run_id, 1))
    await census.refresh()
    assert {plan_id for plan_id, _, _ in samples(PLAN_RUNS)} == {OTHER_PLANS}


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
    assert samples(RUNS) == {} == samples(PLAN_RUNS)
    assert DATABASE_UP._value.get() == 0
    assert "Runs are not counted" in caplog.text
    store.memory.broken = None
    await census.refresh()
    assert DATABASE_UP._value.get() == 1
