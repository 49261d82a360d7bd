"""What the API asks of Runs: filters, details, asking for one; and what lists cost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from knit_workflows.domain.data import DataQuery, TagChange
from knit_workflows.domain.errors import (
    DataNotFound,
    InvalidRequest,
    RunNotFound,
)
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import PlanQuery
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs import RunQuery, RunStatus
from knit_workflows.store import PostgresStore
from knit_workflows.store.connection import Session
from tests.store.build import (
    admit_all,
    begin,
    drain,
    end,
    fetch,
    only,
    register,
    runs_in,
    spec,
    tags,
    upload,
)

NOWHERE = "11111111-1111-4111-8111-111111111111"
S = RunStatus


async def test_runs_are_found(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a"}, {"/o": "k:o"}, log="k:log"))
    data = [await upload(store, "k:a") for _ in range(3)]
    await drain(store)
    keys = await admit_all(store)
    await end(store, keys[0])
    fetch(url, "UPDATE run SET status = 'invalidated' WHERE run_id = %s", keys[1].run_id)

    async def find(**query: object) -> list[str]:
        runs = await store.runs.find(RunQuery(**query))  # type: ignore[arg-type]
        return [run.summary.run_id for run in runs]

    everything = await store.runs.find(RunQuery())
    assert [run.summary for run in everything] == sorted(
        (run.summary for run in everything), key=lambda one: (one.updated_at, one.run_id)
    )
    assert len(everything) == 5
    assert await find(statuses=frozenset({S.INVALIDATED})) == [keys[1].run_id]
    assert set(await find(plan_ids=frozenset({plan, "x"}))) == {keys[0].run_id, keys[2].run_id}
    assert await find(plan_ids=frozenset({"x"})) == []
    detail = await store.runs.get(keys[0].run_id)
    assert detail.log is not None
    outputs = [detail.outputs[0].knit_id, detail.log.knit_id]
    for knit_id in outputs:
        assert await find(output_knit_ids=frozenset({knit_id})) == [keys[0].run_id]
    inputs = frozenset({one.knit_id for one in detail.inputs})
    assert await find(input_knit_ids=inputs) == [keys[0].run_id]
    assert await find(input_knit_ids=inputs, statuses=frozenset({S.FAILED})) == []
    assert len(await find(output_knit_ids=frozenset(data))) == 3
    at = detail.summary.updated_at
    assert keys[0].run_id in await find(since=at)
    assert keys[0].run_id not in await find(until=at)
    seen: list[str] = []
    while page := await store.runs.find(RunQuery(), limit=2, after=seen[-1] if seen else None):
        seen += [run.summary.run_id for run in page]
    assert seen == [run.summary.run_id for run in everything]
    with pytest.raises(InvalidRequest):
        await store.runs.find(RunQuery(), after="x")


@pytest.mark.parametrize("run_id", [NOWHERE, "x"])
async def test_a_run_that_is_not_there(store: PostgresStore, run_id: str) -> None:
    for call in (
        store.runs.get(RunId(run_id)),
        store.runs.events(RunId(run_id)),
        store.runs.stop(RunId(run_id), fail=True),
        store.runs.wait_final(RunId(run_id), fallback=timedelta(seconds=1)),
    ):
        with pytest.raises(RunNotFound):
            await call


async def test_discarded_data_of_a_run_is_shown_as_none(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}, {"/o": ""}, log="k:log"))
    await upload(store, "k:a")
    await drain(store)
    key = only(await admit_all(store))
    fetch(
        url,
        "DELETE FROM data_tag WHERE knit_id IN (SELECT knit_id FROM data WHERE run_id = %s)",
        key.run_id,
    )
    fetch(url, "DELETE FROM data WHERE run_id = %s", key.run_id)
    detail = await store.runs.get(key.run_id)
    assert detail.log is not None
    assert (detail.outputs[0].knit_id, detail.log.knit_id) == (None, None)


async def test_a_run_can_be_asked_for(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}, active=False))
    left, right = await upload(store, "k:a"), await upload(store, "k:b")
    inputs = {"/b": right, "/a": left}
    keys = await asyncio.gather(*(store.runs.ensure(plan, inputs) for _ in range(5)))
    assert len(set(keys)) == 1
    await drain(store)
    assert runs_in(url) == {(plan, (left, right)): "deactivated"}
    run = await store.runs.get(keys[0].run_id)
    assert [(one.path, one.knit_id) for one in run.inputs] == [("/a", left), ("/b", right)]
    for wrong in ({"/a": left}, {**inputs, "/c": left}, {"/a": right, "/b": left}, {}):
        with pytest.raises(InvalidRequest):
            await store.runs.ensure(plan, wrong)
    with pytest.raises(DataNotFound):
        await store.runs.ensure(plan, {"/a": left, "/b": KnitId(NOWHERE)})
    _, growing = await begin(store)
    await store.data.change_tags(growing, TagChange(add=tags("k:a")))
    with pytest.raises(InvalidRequest):
        await store.runs.ensure(plan, {"/a": growing, "/b": right})


async def test_an_asked_for_run_is_admitted(store: PostgresStore) -> None:
    plan = await register(store, spec({"/a": "k:a"}))
    data = await upload(store, "k:a")
    key = await store.runs.ensure(plan, {"/a": data})
    assert await admit_all(store) == [key]
    await end(store, RunKey(key.run_id, 1))
    assert await store.runs.ensure(plan, {"/a": data}) == key


async def test_lists_take_a_constant_number_of_statements(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = Session.rows

    async def counted(self: Session, *args: object) -> object:
        nonlocal calls
        calls += 1
        return await original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "rows", counted)

    async def cost() -> tuple[int, int, int]:
        nonlocal calls
        await store.plans.find(PlanQuery())  # Plans that are met first take one more
        costs = []
        for call in (
            store.data.find(DataQuery()),
            store.plans.find(PlanQuery()),
            store.runs.find(RunQuery()),
        ):
            calls = 0
            await call
            costs.append(calls)
        return costs[0], costs[1], costs[2]

    async def more(turn: int) -> None:
        await register(store, spec({"/a": "k:a"}, {"/b": "k:b"}, image=f"x:{turn}"))
        await register(store, spec({"/a": "k:b"}, image=f"y:{turn}"))
        await upload(store, "k:a")
        await drain(store)

    await more(0)
    small = await cost()
    for turn in range(1, 5):
        await more(turn)
    assert await cost() == small


async def test_ping(store: PostgresStore) -> None:
    await store.ping()
