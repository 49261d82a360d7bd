"""`PlanStore`: registration, previews, filters, details, neighbours, changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from knit_workflows.domain.errors import (
    CyclicPlans,
    EquivalentPlan,
    InvalidQuantity,
    PlanNotFound,
    TooManyRuns,
)
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.plans.model import (
    Annotation,
    AnnotationChange,
    NodeMode,
    NodeRule,
    PlanQuery,
    ResourceChange,
)
from knit_workflows.domain.plans.options import (
    NO_OPTIONS,
    PlanOptions,
    PodOptions,
    Spread,
    Toleration,
)
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import VolumeOptions
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import drain, only, register, spec, upload

NOWHERE = "11111111-1111-4111-8111-111111111111"


async def runs_of(store: AnyStore, plan_id: str) -> dict[tuple[str, ...], RunStatus]:
    """Gives the Runs of a Plan: Data by path → status. Fails on doubles."""
    found = await store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
    runs = {tuple(str(i.knit_id) for i in one.inputs): one.summary.status for one in found}
    assert len(runs) == len(found)
    return runs


async def test_a_new_plan_runs_on_every_combination(store: AnyStore) -> None:
    """The full cross product, one Data at two inputs included; what comes later joins it."""
    left = [await upload(store, "k:a"), await upload(store, "k:a k:b")]
    await upload(store, "other:x")
    plan_id = await register(store, spec({"/a": "k:a", "/b": "k:b"}))
    await drain(store)
    assert await runs_of(store, plan_id) == {(one, left[1]): RunStatus.WAITING for one in left}
    right = await upload(store, "k:b")
    await drain(store)
    assert set(await runs_of(store, plan_id)) == {(a, b) for a in left for b in (left[1], right)}


async def test_a_plan_may_ask_for_one_data_by_its_id(store: AnyStore) -> None:
    data = [await upload(store, "k:a") for _ in range(3)]
    plan_id = await register(store, spec({"/a": f"k:a knit#id:{data[1]}"}))
    none = await register(store, spec({"/a": f"k:b knit#id:{data[1]}"}))
    await drain(store)
    assert set(await runs_of(store, plan_id)) == {(data[1],)}
    assert not await runs_of(store, none)


async def test_a_plan_that_is_not_active_keeps_its_runs_back(store: AnyStore) -> None:
    """Those that wait, and those to come; none that has begun. Twice is as once."""
    first = await upload(store, "k:a")
    plan_id = await register(store, spec({"/a": "k:a"}))
    await drain(store)
    for _ in range(2):
        assert (await store.plans.set_active(plan_id, False)).active is False
    second = await upload(store, "k:a")
    await drain(store)
    kept = {(first,): RunStatus.DEACTIVATED, (second,): RunStatus.DEACTIVATED}
    assert await runs_of(store, plan_id) == kept
    (run, _) = await store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
    assert run.waiting is not None
    assert run.waiting.reason == "its Plan is not active"
    for _ in range(2):
        assert (await store.plans.set_active(plan_id, True)).active is True
    assert await runs_of(store, plan_id) == dict.fromkeys(kept, RunStatus.WAITING)
    causes = [event.cause for event in await store.runs.events(run.summary.run_id)]
    assert causes[-2:] == ["Plan deactivated", "Plan activated"]


async def test_a_priority_reaches_the_runs_that_wait(store: AnyStore) -> None:
    await upload(store, "k:a")
    plan_id = await register(store, spec({"/a": "k:a"}, priority=7))
    await drain(store)
    (run,) = await store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
    assert run.priority == 7
    assert (await store.plans.set_priority(plan_id, -5)).priority == -5
    assert (await store.runs.get(run.summary.run_id)).priority == -5


async def test_the_built_in_plans_are_there(store: AnyStore) -> None:
    plans = {one.summary.name: one for one in await store.plans.find(PlanQuery())}
    assert set(plans) == {"knit#uploaded", "knit#imported"}
    for name, path in (("knit#uploaded", "/upload"), ("knit#imported", "/imported")):
        plan = plans[name]
        assert await store.plans.get(plan.summary.plan_id) == plan
        assert plan.summary.image is None
        assert [(one.mountpoint.path, one.mountpoint.tags) for one in plan.outputs] == [(path, ())]
        assert (plan.inputs, plan.log, plan.active, plan.on_node) == ((), None, True, ())
        assert (dict(plan.resources), plan.service_account, plan.priority) == ({}, None, 0)


async def test_a_plan_is_given_back_as_it_was_registered(store: AnyStore) -> None:
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
    plan = await store.plans.register(wanted, new_runs_limit=10)
    assert await store.plans.get(plan.summary.plan_id) == plan
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


async def test_cycles_are_refused_even_when_closed_at_once(store: AnyStore) -> None:
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


async def test_a_digest_is_part_of_a_plan(store: AnyStore) -> None:
    images = ["r:1", "r:1@sha256:a", "r@sha256:a", "r:1@sha256:b"]
    ids = [await register(store, spec({"/a": "k:a"}, image=image)) for image in images]
    assert [str((await store.plans.get(one)).summary.image) for one in ids] == images

    async def find(**query: str) -> list[str]:
        plans = await store.plans.find(PlanQuery(repository="r", **query))  # type: ignore[arg-type]
        return [plan.summary.plan_id for plan in plans]

    assert await find(image_digest="sha256:a") == sorted(ids[1:3])
    assert await find(image_tag="1", image_digest="sha256:a") == [ids[1]]
    assert await find(image_tag="1") == sorted([ids[0], ids[1], ids[3]])
    with pytest.raises(EquivalentPlan):
        await register(store, spec({"/a": "k:a"}, image=images[2]))


async def test_plans_are_found(store: AnyStore) -> None:
    one = await register(store, spec({"/a": "k:a x:1", "/b": "k:b"}, {"/o": "k:o"}, image="r:1"))
    two = await register(
        store, spec({"/a": f"k:a knit#id:{NOWHERE}"}, log="k:log", image="r:2", active=False)
    )
    everything = await store.plans.find(PlanQuery())
    ids = [plan.summary.plan_id for plan in everything]
    assert ids == sorted(ids)
    assert {plan.summary.name for plan in everything} == {None, "knit#uploaded", "knit#imported"}

    async def find(**query: object) -> set[str]:
        plans = await store.plans.find(PlanQuery(**query))  # type: ignore[arg-type]
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
    pages = [await store.plans.find(PlanQuery(), limit=3)]
    pages.append(await store.plans.find(PlanQuery(), limit=3, after=pages[0][-1].summary.plan_id))
    assert [plan.summary.plan_id for page in pages for plan in page] == ids


async def test_plans_within_projects_have_their_tags_everywhere(store: AnyStore) -> None:
    """At each input and output and the log; of several tags any one will do."""
    whole = await register(store, spec({"/a": "p:x k:a"}, {"/b": "p:x"}, log="p:x k:log"))
    mixed = await register(store, spec({"/a": "p:x k:a", "/b": "p:y"}, {"/c": "p:x k:c"}))
    for other in (
        spec({"/a": "p:x k:1", "/b": "k:2"}),
        spec({"/a": "p:x k:3"}, {"/b": "k:4"}),
        spec({"/a": "p:x k:5"}, {"/b": "p:x k:6"}, log="k:7"),
        spec({"/a": f"p:x k:8 knit#id:{NOWHERE}", "/b": f"knit#id:{NOWHERE}"}),
    ):
        await register(store, other)
    x, y, unknown = Tag("p", "x"), Tag("p", "y"), Tag("p", "never used")
    assert await store.plans.within(frozenset({x})) == {whole}
    assert await store.plans.within(frozenset({x, y, unknown})) == {whole, mixed}
    assert await store.plans.within(frozenset({unknown})) == frozenset()
    for chosen in (frozenset({whole, mixed}), frozenset({whole, NOWHERE, "x"}), frozenset[str]()):
        found = await store.plans.find(PlanQuery(plan_ids=chosen))
        assert {one.summary.plan_id for one in found} == chosen & {whole, mixed}


async def test_plans_show_their_neighbours(store: AnyStore) -> None:
    up = await register(store, spec({"/a": "k:raw"}, {"/out": "k:b x:1"}, log="k:log x:1"))
    down = await register(store, spec({"/in": "k:b", "/pin": f"k:b knit#id:{NOWHERE}"}))
    logs = await register(store, spec({"/log": "k:log"}))
    await register(store, spec({"/none": "k:b x:2"}))
    upstream = await store.plans.get(up)
    assert [(one.plan.plan_id, one.path) for one in upstream.outputs[0].links] == [(down, "/in")]
    assert upstream.log is not None
    assert [(one.plan.plan_id, one.path) for one in upstream.log.links] == [(logs, "/log")]
    downstream = await store.plans.get(down)
    assert [
        [(one.plan.plan_id, one.path, one.tags) for one in mountpoint.links]
        for mountpoint in downstream.inputs
    ] == [[(up, "/out", (Tag("k", "b"), Tag("x", "1")))], []]
    reader = await store.plans.get(logs)
    assert [(one.plan.plan_id, one.path) for one in reader.inputs[0].links] == [(up, None)]
    listed = {plan.summary.plan_id: plan for plan in await store.plans.find(PlanQuery())}
    assert listed[up] == upstream
    assert listed[down] == downstream


async def test_resources_are_set_and_unset(store: AnyStore) -> None:
    """Sets beats unset; cpu and memory fall back to their defaults, others are gone."""
    plan_id = await register(store, spec({"/a": "k:a"}))

    async def change(unset: str = "", **values: str) -> dict[str, str]:
        names = {name.replace("_", "/"): text for name, text in values.items()}
        changed = await store.plans.change_resources(
            plan_id, ResourceChange(names, frozenset(unset.split()))
        )
        assert await store.plans.get(plan_id) == changed
        return dict(changed.resources)

    assert await change(cpu="2000m", a_gpu="1") == {"cpu": "2", "memory": "1Gi", "a/gpu": "1"}
    assert await change(unset="cpu a/gpu none") == {"cpu": "1", "memory": "1Gi"}
    both = await change(unset="cpu memory", cpu="3", memory="2Gi")
    assert both == {"cpu": "3", "memory": "2Gi"}
    assert await change() == both
    with pytest.raises(InvalidQuantity):
        await change(cpu="many")
    assert await change() == both


async def test_annotations_are_removed_then_added(store: AnyStore) -> None:
    plan_id = await register(
        store, spec({"/a": "k:a"}, annotations=(Annotation("k", "1"), Annotation("k", "2")))
    )

    async def change(add: str = "", remove: str = "", keys: str = "") -> list[str]:
        changed = await store.plans.change_annotations(
            plan_id, AnnotationChange(notes(add), notes(remove), frozenset(keys.split()))
        )
        assert await store.plans.get(plan_id) == changed
        return [str(one) for one in changed.summary.annotations]

    assert await change(add="k=3 a=b k=1") == ["a=b", "k=1", "k=2", "k=3"]
    assert await change(remove="k=1 k=9 x=y") == ["a=b", "k=2", "k=3"]
    assert await change(add="k=2 k=4", remove="k=4", keys="k") == ["a=b", "k=2", "k=4"]
    for _ in range(2):
        assert await change(keys="a k none") == []


def notes(text: str) -> frozenset[Annotation]:
    return frozenset(Annotation(*one.split("=")) for one in text.split())


async def test_notes_added_at_once_are_all_kept(store: AnyStore) -> None:
    """Each change reads what the one before it wrote."""
    plan_id = await register(store, spec({"/a": "k:a"}))
    wanted = [Annotation("k", str(number)) for number in range(12)]
    await asyncio.gather(
        *(
            store.plans.change_annotations(plan_id, AnnotationChange(frozenset([one])))
            for one in wanted
        )
    )
    plan = await store.plans.get(plan_id)
    assert set(plan.summary.annotations) == set(wanted)


async def test_a_service_account_is_set_and_unset(store: AnyStore) -> None:
    plan_id = await register(store, spec({"/a": "k:a"}))
    for name in ("trainer", "trainer", "other", None, None):
        assert (await store.plans.set_service_account(plan_id, name)).service_account == name
        assert (await store.plans.get(plan_id)).service_account == name


async def test_options_are_kept_replaced_and_taken_away(store: AnyStore) -> None:
    """Together with the Plan, or later; the Plan stays the same one."""
    options = PlanOptions(
        PodOptions(
            labels={"a": "b"},
            tolerations=(Toleration("k", "Exists", "", "NoExecute", 0),),
            topology_spread=(Spread("zone"),),
            image_pull_secrets=("s",),
        ),
        {"/out": VolumeOptions("fast", "ReadWriteOnce", "1Gi")},
    )
    wanted = replace(spec({"/a": "k:a"}, {"/out": "k:b"}), options=options)
    plan_id = await register(store, wanted)
    assert (await store.plans.get(plan_id)).options == options
    for other in (PlanOptions(PodOptions(queue="q")), NO_OPTIONS, NO_OPTIONS, options):
        assert (await store.plans.set_options(plan_id, other)).options == other
        assert (await store.plans.get(plan_id)).options == other
    with pytest.raises(EquivalentPlan):
        await register(store, replace(wanted, options=NO_OPTIONS))


@pytest.mark.parametrize("which", [NOWHERE, "x", "built-in"])
async def test_only_plans_of_users_can_be_changed(store: AnyStore, which: str) -> None:
    built_in = next(one for one in await store.plans.find(PlanQuery()) if one.summary.name)
    plan_id = built_in.summary.plan_id if which == "built-in" else PlanId(which)
    for change in (
        store.plans.set_active(plan_id, False),
        store.plans.change_resources(plan_id, ResourceChange({"cpu": "1"})),
        store.plans.change_annotations(plan_id, AnnotationChange()),
        store.plans.set_service_account(plan_id, None),
        store.plans.set_priority(plan_id, 1),
        store.plans.set_options(plan_id, NO_OPTIONS),
    ):
        with pytest.raises(PlanNotFound) as failure:
            await change
        assert failure.value.see == plan_id
    assert await store.plans.get(built_in.summary.plan_id) == built_in


async def test_an_equivalent_plan_is_named(store: AnyStore) -> None:
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


async def test_too_many_runs_leave_no_plan(store: AnyStore) -> None:
    for _ in range(4):
        await upload(store, "k:a")
    await drain(store)
    wanted = spec({"/a": "k:a", "/b": "k:a"})
    assert (await store.plans.preview(wanted, limit=1)).runs == 16
    with pytest.raises(TooManyRuns, match="16") as failure:
        await store.plans.register(wanted, new_runs_limit=15)
    assert failure.value.advice
    assert len(await store.plans.find(PlanQuery())) == 2
    made = await store.plans.register(wanted, new_runs_limit=16)
    await drain(store)
    assert len(await runs_of(store, made.summary.plan_id)) == 16


async def test_a_preview_says_what_registering_would_create(store: AnyStore) -> None:
    """Counts and the first combinations; afterwards nothing is there."""
    ids = sorted([await upload(store, "k:a") for _ in range(3)])
    other = await upload(store, "k:b")
    await drain(store)
    wanted = spec({"/b": "k:b", "/a": "k:a"}, {"/out": "k:c"})
    for _ in range(2):
        preview = await store.plans.preview(wanted, limit=2)
        assert preview.runs == 3
        assert preview.candidates == {"/a": 3, "/b": 1}
        assert preview.assignments == tuple({"/a": one, "/b": other} for one in ids[:2])
    await drain(store)
    assert len(await store.plans.find(PlanQuery())) == 2
    assert await store.runs.find(RunQuery(statuses=frozenset({RunStatus.WAITING}))) == []
    made = await register(store, wanted)
    await drain(store)
    assert set(await runs_of(store, made)) == {(one, other) for one in ids}
    with pytest.raises(EquivalentPlan) as equivalent:
        await store.plans.preview(wanted, limit=2)
    assert equivalent.value.see == made
    with pytest.raises(CyclicPlans):
        await store.plans.preview(spec({"/in": "k:c"}, {"/out": "k:a"}), limit=2)
    unfilled = await store.plans.preview(spec({"/x": "k:a", "/y": "k:none"}), limit=2)
    assert (unfilled.runs, unfilled.assignments) == (0, ())
    assert unfilled.candidates == {"/x": 3, "/y": 0}
