"""What the API asks: orders, filters, pages, details, changes of tags, registration."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from knit_workflows.domain.data import DataQuery, TagChange
from knit_workflows.domain.errors import (
    CyclicPlans,
    DataNotFound,
    EquivalentPlan,
    InvalidRequest,
    PlanNotFound,
    RunNotFound,
    TooManyRuns,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans import Annotation, NodeMode, NodeRule, PlanQuery
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs import RunQuery, RunStatus
from knit_workflows.domain.tags import KEY_TIMESTAMP, Tag
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

NOWHERE = str(uuid4())
S = RunStatus


async def found(store: PostgresStore, text: str = "", **more: object) -> list[str]:
    query = DataQuery(tags=tuple(tags(text)), **more)  # type: ignore[arg-type]
    return [one.knit_id for one in await store.find_data(query)]


def timestamp_of(detail: object) -> str:
    return only(tag.value for tag in detail.tags if tag.key == KEY_TIMESTAMP)  # type: ignore[attr-defined]


async def test_data_are_found_by_all_their_tags(store: PostgresStore) -> None:
    one = await upload(store, "k:a x:1")
    two = await upload(store, "k:a x:2")
    assert await found(store) == [one, two]
    assert await found(store, "k:a") == [one, two]
    assert await found(store, "k:a x:2") == [two]
    assert await found(store, "x:1 x:2") == []
    assert await found(store, "never:seen") == []


async def test_data_are_found_by_system_tags(store: PostgresStore) -> None:
    one = await upload(store, "k:a")
    two = await upload(store, "k:a")
    _, growing = await begin(store)
    broken_key, broken = await begin(store)
    await end(store, broken_key, fail=True)
    assert await found(store, f"knit#id:{one}") == [one]
    assert await found(store, f"knit#id:{one} knit#id:{two}") == []
    assert await found(store, "knit#id:nothing") == []
    assert await found(store, "knit#transient:processing") == [growing]
    assert await found(store, "knit#transient:failed") == [broken]
    assert await found(store, "knit#transient:failed knit#transient:processing") == []
    assert await found(store, "knit#transient:other") == []
    assert await found(store, "knit#unknown:x") == []
    shown = timestamp_of(await store.data(one))
    fetch_same = await found(store, f"knit#timestamp:{shown} knit#id:{one}")
    assert fetch_same == [one]
    assert await found(store, "knit#timestamp:1999-01-01T00:00:00+09:00") == []


async def test_the_window_of_time_has_an_open_end(store: PostgresStore, url: str) -> None:
    one = await upload(store)
    key, growing = await begin(store)
    await asyncio.sleep(0.005)
    at = only(fetch(url, "SELECT timestamp FROM data WHERE knit_id = %s", one))["timestamp"]
    moved = (await store.run(key.run_id)).summary.updated_at
    assert await found(store, since=at) == [one, growing]
    assert await found(store, since=at, until=at + timedelta(milliseconds=1)) in (
        [one],
        [one, growing],
    )
    assert await found(store, until=at) == []
    assert growing in await found(store, since=moved, until=moved + timedelta(milliseconds=1))


async def test_data_come_by_time_then_id_unfinished_last(store: PostgresStore, url: str) -> None:
    finished = [await upload(store) for _ in range(4)]
    growing = [(await begin(store))[1] for _ in range(3)]
    fetch(
        url,
        "UPDATE data SET timestamp = (SELECT max(timestamp) FROM data) WHERE knit_id = ANY(%s)",
        finished[1:3],
    )
    fetch(
        url,
        "UPDATE data SET timestamp = timestamp + interval '1s' WHERE knit_id = %s",
        finished[0],
    )
    order = [*sorted(finished[1:]), finished[0], *sorted(growing)]
    assert await found(store) == order
    for limit in (1, 2, 3, 10):
        seen: list[str] = []
        after = None
        while page := await store.find_data(DataQuery(), limit=limit, after=after):
            assert len(page) <= limit
            seen += [one.knit_id for one in page]
            after = seen[-1]
        assert seen == order
    rest = await store.find_data(DataQuery(), after=order[1])
    assert [one.knit_id for one in rest] == order[2:]
    with pytest.raises(InvalidRequest):
        await store.find_data(DataQuery(), after=NOWHERE)


async def test_a_data_shows_its_neighbours(store: PostgresStore) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}, {"/out": "k:c"}))
    fitting = await register(store, spec({"/x": "k:a"}, image="other:1"))
    data = await upload(store, "k:a z:1")
    other = await upload(store, "k:b")
    await drain(store)
    detail = await store.data(data)
    assert list(detail.tags) == sorted(detail.tags)
    assert {(one.mountpoint.path, one.run.plan.plan_id) for one in detail.downstreams} == {
        ("/a", plan),
        ("/x", fitting),
    }
    assert {(one.mountpoint.path, one.plan.plan_id) for one in detail.nominations} == {
        ("/a", plan),
        ("/x", fitting),
    }
    await store.change_tags(data, TagChange(remove=tags("k:a")))
    detail = await store.data(data)
    assert detail.nominations == ()
    assert len(detail.downstreams) == 2
    run = only(one.run for one in (await store.data(other)).downstreams)
    made = only((await store.run(run.run_id)).outputs).knit_id
    assert made is not None
    shown = await store.data(made)
    assert (shown.upstream.path, shown.upstream.tags) == ("/out", (Tag("k", "c"),))
    assert shown.upstream.run == run
    assert shown.nominations == ()


async def test_invalidated_runs_are_no_downstreams(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}))
    data = await upload(store, "k:a")
    await drain(store)
    fetch(url, "UPDATE run SET status = 'invalidated' WHERE assignment_hash IS NOT NULL")
    assert (await store.data(data)).downstreams == ()


@pytest.mark.parametrize("knit_id", [NOWHERE, "x", ""])
async def test_data_that_is_not_there(store: PostgresStore, knit_id: str) -> None:
    with pytest.raises(DataNotFound):
        await store.data(KnitId(knit_id))
    with pytest.raises(DataNotFound):
        await store.change_tags(KnitId(knit_id), TagChange(add=tags("a:b")))


async def test_removals_come_before_additions(store: PostgresStore) -> None:
    data = await upload(store, "v:1 v:2 k:a k:b keep:x")
    change = TagChange(
        add=tags("v:1 new:y"), remove=tags("k:a v:1 absent:z"), remove_keys=frozenset({"v", "no"})
    )
    for _ in range(2):
        detail = await store.change_tags(data, change)
        users = {str(tag) for tag in detail.tags if not tag.is_system}
        assert users == {"v:1", "new:y", "k:b", "keep:x"}


async def test_large_and_strange_tags(store: PostgresStore) -> None:
    strange = frozenset(
        {Tag("", ""), Tag("k", "v" * 1_048_576), Tag("%s%(x)s", "'\"\\"), Tag("日本", "🐍\u3000x")}
    )
    data = await upload(store)
    detail = await store.change_tags(data, TagChange(add=strange))
    assert strange <= set(detail.tags)
    for tag in strange:
        query = DataQuery(tags=(tag,))
        assert [one.knit_id for one in await store.find_data(query)] == [data]


async def test_equal_tags_at_once_are_stored_once(store: PostgresStore, url: str) -> None:
    data = [await upload(store) for _ in range(8)]
    wanted = tags(" ".join(f"k{n}:v" for n in range(20)))
    await asyncio.gather(*(store.change_tags(one, TagChange(add=wanted)) for one in data))
    assert len(fetch(url, "SELECT * FROM tag")) == 20
    assert len(fetch(url, "SELECT * FROM data_tag")) == 160


async def test_a_plan_is_given_back_as_it_was_registered(store: PostgresStore) -> None:
    wanted = spec(
        {"/in": "k:a p:x", "/pin": "knit#id:abc knit#timestamp:2024-01-02T03:04:05.678901+09:00"},
        {"/out": "k:b"},
        log="k:log",
        entrypoint=("python", "-m"),
        args=("b", "a"),
        on_node=(NodeRule(NodeMode.MAY, "k", "v"), NodeRule(NodeMode.MUST, "gpu", "yes")),
        annotations=(Annotation("b", "2"), Annotation("a", "1=2")),
        service_account="me",
        active=False,
    )
    plan = await store.register_plan(wanted, new_runs_limit=10)
    assert await store.plan(plan.summary.plan_id) == plan
    assert plan.summary.image == wanted.image
    assert plan.summary.name is None
    assert (plan.summary.entrypoint, plan.summary.args) == (("python", "-m"), ("b", "a"))
    assert plan.summary.annotations == (Annotation("a", "1=2"), Annotation("b", "2"))
    shown = [(one.mountpoint.path, [str(t) for t in one.mountpoint.tags]) for one in plan.inputs]
    assert shown == [
        ("/in", ["k:a", "p:x"]),
        ("/pin", ["knit#id:abc", "knit#timestamp:2024-01-01T18:04:05.678+00:00"]),
    ]
    assert [one.mountpoint.path for one in plan.outputs] == ["/out"]
    assert plan.log is not None
    assert plan.log.mountpoint.tags == (Tag("k", "log"),)
    assert plan.active is False
    assert set(plan.on_node) == set(wanted.on_node)
    assert plan.service_account == "me"
    assert plan.resources == wanted.resources


async def test_an_equivalent_plan_is_named(store: PostgresStore, url: str) -> None:
    first = await register(store, spec({"/a": "k:a k:b"}))
    with pytest.raises(EquivalentPlan) as failure:
        await register(store, spec({"/a": "k:b k:a"}, active=False))
    assert failure.value.see == first
    results = await asyncio.gather(
        *(register(store, spec({"/b": "k:x"})) for _ in range(6)), return_exceptions=True
    )
    made = only(one for one in results if isinstance(one, str))
    refused = [one for one in results if isinstance(one, EquivalentPlan)]
    assert len(refused) == 5
    assert {one.see for one in refused} == {made}


async def test_cycles_are_refused_even_when_closed_at_once(store: PostgresStore) -> None:
    with pytest.raises(CyclicPlans):
        await register(store, spec({"/a": "k:a"}, {"/out": "k:a x:1"}))
    first = await register(store, spec({"/a": "k:a"}, {"/out": "k:b"}, active=False))
    with pytest.raises(CyclicPlans) as failure:
        await register(store, spec({"/b": "k:b"}, log="k:a"))
    assert first in failure.value.reason
    await register(store, spec({"/b": "k:b knit#id:x"}, {"/out": "k:a"}))
    results = await asyncio.gather(
        register(store, spec({"/c": "k:c"}, {"/out": "k:d"})),
        register(store, spec({"/d": "k:d"}, {"/out": "k:c"})),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in results) == ["CyclicPlans", "str"]


async def test_too_many_runs_leave_no_plan(store: PostgresStore, url: str) -> None:
    for _ in range(4):
        await upload(store, "k:a")
    await drain(store)
    wanted = spec({"/a": "k:a", "/b": "k:a"})
    assert await store.runs_if_registered(wanted) == 16
    with pytest.raises(TooManyRuns, match="16") as failure:
        await store.register_plan(wanted, new_runs_limit=15)
    assert failure.value.advice
    assert fetch(url, "SELECT * FROM outbox") == []
    assert len(await store.find_plans(PlanQuery())) == 2
    await store.register_plan(wanted, new_runs_limit=16)
    assert await drain(store) == 16
    assert await store.runs_if_registered(wanted) == 0
    assert await store.runs_if_registered(spec({"/x": "k:a", "/y": "k:none"})) == 0


async def test_plans_are_found(store: PostgresStore) -> None:
    one = await register(store, spec({"/a": "k:a x:1", "/b": "k:b"}, {"/o": "k:o"}, image="r:1"))
    two = await register(
        store, spec({"/a": f"k:a knit#id:{NOWHERE}"}, log="k:log", image="r:2", active=False)
    )
    everything = await store.find_plans(PlanQuery())
    ids = [plan.summary.plan_id for plan in everything]
    assert ids == sorted(ids)
    assert {plan.summary.name for plan in everything} == {None, "knit#uploaded", "knit#imported"}

    async def find(**query: object) -> set[str]:
        plans = await store.find_plans(PlanQuery(**query))  # type: ignore[arg-type]
        return {plan.summary.plan_id for plan in plans}

    assert await find(repository="r") == {one, two}
    assert await find(repository="r", image_tag="2") == {two}
    assert await find(repository="R") == set()
    assert await find(active=False) == {two}
    assert one in await find(active=True)
    assert await find(input_tags=(Tag("k", "a"),)) == {one, two}
    assert await find(input_tags=(Tag("k", "a"), Tag("x", "1"))) == {one}
    assert await find(input_tags=(Tag("k", "a"), Tag("k", "b"))) == set()
    assert await find(input_tags=(Tag("never", "seen"),)) == set()
    assert await find(input_tags=(Tag("knit#id", NOWHERE),)) == {two}
    assert await find(input_tags=(Tag("knit#id", NOWHERE), Tag("knit#id", "y"))) == set()
    assert await find(input_tags=(Tag("knit#transient", "failed"),)) == set()
    assert await find(output_tags=(Tag("k", "o"),)) == {one}
    assert await find(output_tags=(Tag("k", "log"),)) == {two}
    assert await find(output_tags=(Tag("knit#id", NOWHERE),)) == set()
    pages = [await store.find_plans(PlanQuery(), limit=3)]
    pages.append(await store.find_plans(PlanQuery(), limit=3, after=pages[0][-1].summary.plan_id))
    assert [plan.summary.plan_id for page in pages for plan in page] == ids


async def test_plans_show_their_neighbours(store: PostgresStore) -> None:
    up = await register(store, spec({"/a": "k:raw"}, {"/out": "k:b x:1"}, log="k:log x:1"))
    down = await register(store, spec({"/in": "k:b", "/pin": f"k:b knit#id:{NOWHERE}"}))
    logs = await register(store, spec({"/log": "k:log"}))
    await register(store, spec({"/none": "k:b x:2"}))
    upstream = await store.plan(up)
    assert [(one.plan.plan_id, one.path) for one in upstream.outputs[0].links] == [(down, "/in")]
    assert upstream.log is not None
    assert [(one.plan.plan_id, one.path) for one in upstream.log.links] == [(logs, "/log")]
    downstream = await store.plan(down)
    assert [
        [(one.plan.plan_id, one.path, one.tags) for one in mountpoint.links]
        for mountpoint in downstream.inputs
    ] == [[(up, "/out", (Tag("k", "b"), Tag("x", "1")))], []]
    reader = await store.plan(logs)
    assert [(one.plan.plan_id, one.path) for one in reader.inputs[0].links] == [(up, None)]
    listed = {plan.summary.plan_id: plan for plan in await store.find_plans(PlanQuery())}
    assert listed[up] == upstream
    assert listed[down] == downstream


@pytest.mark.parametrize("plan_id", [NOWHERE, "x"])
async def test_a_plan_that_is_not_there(store: PostgresStore, plan_id: str) -> None:
    with pytest.raises(PlanNotFound):
        await store.plan(PlanId(plan_id))
    with pytest.raises(PlanNotFound):
        await store.ensure_run(PlanId(plan_id), {"/a": KnitId(NOWHERE)})


async def test_runs_are_found(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a"}, {"/o": "k:o"}, log="k:log"))
    data = [await upload(store, "k:a") for _ in range(3)]
    await drain(store)
    keys = await admit_all(store)
    await end(store, keys[0])
    fetch(url, "UPDATE run SET status = 'invalidated' WHERE run_id = %s", keys[1].run_id)

    async def find(**query: object) -> list[str]:
        runs = await store.find_runs(RunQuery(**query))  # type: ignore[arg-type]
        return [run.summary.run_id for run in runs]

    everything = await store.find_runs(RunQuery())
    assert [run.summary for run in everything] == sorted(
        (run.summary for run in everything), key=lambda one: (one.updated_at, one.run_id)
    )
    assert len(everything) == 5
    assert await find(statuses=frozenset({S.INVALIDATED})) == [keys[1].run_id]
    assert set(await find(plan_ids=frozenset({plan, "x"}))) == {keys[0].run_id, keys[2].run_id}
    assert await find(plan_ids=frozenset({"x"})) == []
    detail = await store.run(keys[0].run_id)
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
    while page := await store.find_runs(RunQuery(), limit=2, after=seen[-1] if seen else None):
        seen += [run.summary.run_id for run in page]
    assert seen == [run.summary.run_id for run in everything]
    with pytest.raises(InvalidRequest):
        await store.find_runs(RunQuery(), after="x")


@pytest.mark.parametrize("run_id", [NOWHERE, "x"])
async def test_a_run_that_is_not_there(store: PostgresStore, run_id: str) -> None:
    for call in (
        store.run(RunId(run_id)),
        store.run_events(RunId(run_id)),
        store.stop(RunId(run_id), fail=True),
        store.wait_final(RunId(run_id), fallback=timedelta(seconds=1)),
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
    detail = await store.run(key.run_id)
    assert detail.log is not None
    assert (detail.outputs[0].knit_id, detail.log.knit_id) == (None, None)


async def test_a_run_can_be_asked_for(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}, active=False))
    left, right = await upload(store, "k:a"), await upload(store, "k:b")
    inputs = {"/b": right, "/a": left}
    keys = await asyncio.gather(*(store.ensure_run(plan, inputs) for _ in range(5)))
    assert len(set(keys)) == 1
    await drain(store)
    assert runs_in(url) == {(plan, (left, right)): "deactivated"}
    run = await store.run(keys[0].run_id)
    assert [(one.path, one.knit_id) for one in run.inputs] == [("/a", left), ("/b", right)]
    for wrong in ({"/a": left}, {**inputs, "/c": left}, {"/a": right, "/b": left}, {}):
        with pytest.raises(InvalidRequest):
            await store.ensure_run(plan, wrong)
    with pytest.raises(DataNotFound):
        await store.ensure_run(plan, {"/a": left, "/b": KnitId(NOWHERE)})
    _, growing = await begin(store)
    await store.change_tags(growing, TagChange(add=tags("k:a")))
    with pytest.raises(InvalidRequest):
        await store.ensure_run(plan, {"/a": growing, "/b": right})


async def test_an_asked_for_run_is_admitted(store: PostgresStore) -> None:
    plan = await register(store, spec({"/a": "k:a"}))
    data = await upload(store, "k:a")
    key = await store.ensure_run(plan, {"/a": data})
    assert await admit_all(store) == [key]
    await end(store, RunKey(key.run_id, 1))
    assert await store.ensure_run(plan, {"/a": data}) == key


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
        costs = []
        for call in (
            store.find_data(DataQuery()),
            store.find_plans(PlanQuery()),
            store.find_runs(RunQuery()),
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
