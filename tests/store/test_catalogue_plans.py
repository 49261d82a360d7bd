"""What the API asks of Plans: registration, filters, details, neighbours."""

from __future__ import annotations

import asyncio

import pytest

from knit_workflows.domain.errors import (
    CyclicPlans,
    EquivalentPlan,
    PlanNotFound,
    TooManyRuns,
)
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.plans import Annotation, NodeMode, NodeRule, PlanQuery
from knit_workflows.domain.runs import RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.store import PostgresStore
from tests.store.build import (
    drain,
    fetch,
    only,
    register,
    spec,
    upload,
)

NOWHERE = "11111111-1111-4111-8111-111111111111"
S = RunStatus


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
