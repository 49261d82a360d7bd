"""What the API asks of Plans: registration, filters, details, neighbours."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from knit_workflows.domain.errors import (
    CyclicPlans,
    EquivalentPlan,
    InvalidQuantity,
    PlanNotFound,
    TooManyRuns,
)
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.plans.model import (
    Annotation,
    AnnotationChange,
    NodeMode,
    NodeRule,
    PlanQuery,
    ResourceChange,
)
from knit_workflows.domain.ports import AdmissionLimits
from knit_workflows.domain.runs import RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.settings import StoreSettings
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
    assert (await store.plans.preview(wanted, most=1)).runs == 16
    with pytest.raises(TooManyRuns, match="16") as failure:
        await store.plans.register(wanted, new_runs_limit=15)
    assert failure.value.advice
    assert fetch(url, "SELECT * FROM outbox") == []
    assert len(await store.plans.find(PlanQuery())) == 2
    await store.plans.register(wanted, new_runs_limit=16)
    assert await drain(store) == 16


async def test_a_preview_says_what_registering_would_create(store: PostgresStore, url: str) -> None:
    """Counts and the first combinations; afterwards nothing is there, not even an event."""
    ids = sorted([await upload(store, "k:a") for _ in range(3)])
    other = await upload(store, "k:b")
    await drain(store)
    wanted = spec({"/b": "k:b", "/a": "k:a"}, {"/out": "k:c"})
    for _ in range(2):
        preview = await store.plans.preview(wanted, most=2)
        assert preview.runs == 3
        assert preview.candidates == {"/a": 3, "/b": 1}
        assert preview.assignments == tuple({"/a": one, "/b": other} for one in ids[:2])
    assert fetch(url, "SELECT FROM plan WHERE name IS NULL") == []
    assert fetch(url, "SELECT FROM outbox") == []
    made = await register(store, wanted)
    assert await drain(store) == 3
    with pytest.raises(EquivalentPlan) as equivalent:
        await store.plans.preview(wanted, most=2)
    assert equivalent.value.see == made
    with pytest.raises(CyclicPlans):
        await store.plans.preview(spec({"/in": "k:c"}, {"/out": "k:a"}), most=2)
    unfilled = await store.plans.preview(spec({"/x": "k:a", "/y": "k:none"}), most=2)
    assert (unfilled.runs, unfilled.assignments) == (0, ())
    assert unfilled.candidates == {"/x": 3, "/y": 0}


async def test_a_preview_of_what_somebody_else_registers_meanwhile(store: PostgresStore) -> None:
    """It answers as if it had come before or after; it never hinders the other."""
    for number in range(5):
        wanted = spec({"/a": f"k:{number}"})
        results = await asyncio.gather(
            *(store.plans.preview(wanted, most=1) for _ in range(3)),
            register(store, wanted),
            return_exceptions=True,
        )
        assert isinstance(results.pop(), str)
        assert {type(one).__name__ for one in results} <= {"PlanPreview", "EquivalentPlan"}


async def test_a_digest_is_part_of_a_plan(store: PostgresStore) -> None:
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


async def test_plans_are_found(store: PostgresStore) -> None:
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


async def test_plans_show_their_neighbours(store: PostgresStore) -> None:
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


@pytest.mark.parametrize("plan_id", [NOWHERE, "x"])
async def test_a_plan_that_is_not_there(store: PostgresStore, plan_id: str) -> None:
    with pytest.raises(PlanNotFound):
        await store.plans.get(PlanId(plan_id))
    with pytest.raises(PlanNotFound):
        await store.runs.ensure(PlanId(plan_id), {"/a": KnitId(NOWHERE)})


async def test_resources_are_set_and_unset(store: PostgresStore) -> None:
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


async def test_annotations_are_removed_then_added(store: PostgresStore) -> None:
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


async def test_notes_added_at_once_are_all_kept(store: PostgresStore) -> None:
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


async def test_a_service_account_is_set_and_unset(store: PostgresStore) -> None:
    plan_id = await register(store, spec({"/a": "k:a"}))
    for name in ("trainer", "trainer", "other", None, None):
        assert (await store.plans.set_service_account(plan_id, name)).service_account == name
        assert (await store.plans.get(plan_id)).service_account == name


async def test_a_priority_reaches_the_runs_that_have_no_place_yet(
    store: PostgresStore, url: str
) -> None:
    """Those of other Plans, and those that were admitted, keep theirs; later ones take it."""
    for _ in range(3):
        await upload(store, "k:a")
    plan_id = await register(store, spec({"/a": "k:a"}, priority=7))
    other = await register(store, spec({"/b": "k:a"}, priority=-3, active=False))
    assert (await store.plans.get(plan_id)).priority == 7
    await drain(store)
    assert len(await store.admission.admit(AdmissionLimits(total=1))) == 1
    fetch(url, "UPDATE run SET priority = 1")
    assert (await store.plans.set_priority(plan_id, -5)).priority == -5

    def priorities(of: PlanId) -> list[int]:
        rows = fetch(url, "SELECT priority FROM run WHERE plan_id = %s ORDER BY 1", of)
        return [row["priority"] for row in rows]

    assert priorities(plan_id) == [-5, -5, 1]
    assert priorities(other) == [1, 1, 1]
    await store.plans.set_priority(other, 9)
    assert priorities(other) == [9, 9, 9]
    await store.plans.set_active(plan_id, False)  # what was admitted goes back into the queue
    assert priorities(plan_id) == [-5, -5, -5]


async def test_the_order_of_a_priority_and_new_runs_does_not_matter(
    store: PostgresStore, url: str
) -> None:
    """A Run that is made while its Plan's priority changes ends up with the new one."""
    plan_id = await register(store, spec({"/a": "k:a"}))
    for number in range(1, 6):
        await upload(store, "k:a")
        await asyncio.gather(drain(store), store.plans.set_priority(plan_id, number))
        rows = fetch(url, "SELECT DISTINCT priority FROM run WHERE plan_id = %s", plan_id)
        assert [row["priority"] for row in rows] == [number]


async def test_a_long_queue_moves_page_by_page(store: PostgresStore, url: str) -> None:
    """However long it is, and whoever sets another priority meanwhile: the last one counts."""
    plan_id = await register(store, spec({"/a": "k:a"}))
    fetch(
        url,
        """INSERT INTO run (run_id, plan_id, assignment_hash, status, priority, created_at,
                             updated_at)
           SELECT gen_random_uuid(), %s, uuid_send(gen_random_uuid()),
                  (ARRAY['waiting', 'deactivated'])[1 + n %% 2], n %% 3 - 1, now(), now()
             FROM generate_series(1, 12000) n""",
        plan_id,
    )
    await asyncio.gather(*(store.plans.set_priority(plan_id, number) for number in (1, 0, -1)))
    last = (await store.plans.get(plan_id)).priority
    rows = fetch(url, "SELECT DISTINCT priority FROM run WHERE plan_id = %s", plan_id)
    assert [row["priority"] for row in rows] == [last]


@pytest.mark.parametrize("which", [NOWHERE, "x", "built-in"])
async def test_only_plans_of_users_can_be_changed(store: PostgresStore, which: str) -> None:
    built_in = next(one for one in await store.plans.find(PlanQuery()) if one.summary.name)
    plan_id = built_in.summary.plan_id if which == "built-in" else PlanId(which)
    for change in (
        store.plans.set_active(plan_id, False),
        store.plans.change_resources(plan_id, ResourceChange({"cpu": "1"})),
        store.plans.change_annotations(plan_id, AnnotationChange()),
        store.plans.set_service_account(plan_id, None),
        store.plans.set_priority(plan_id, 1),
    ):
        with pytest.raises(PlanNotFound) as failure:
            await change
        assert failure.value.see == plan_id
    assert await store.plans.get(built_in.summary.plan_id) == built_in


async def test_what_another_process_changes_is_seen(store: PostgresStore, url: str) -> None:
    """Mountpoints are remembered, for they never change; what can change is read each time."""
    plan = await register(store, spec({"/a": "k:a"}, {"/b": "k:b"}))
    before = await store.plans.get(plan)
    other = PostgresStore(StoreSettings(url=SecretStr(url)))
    await other.plans.set_active(plan, False)
    await other.plans.set_priority(plan, 7)
    await other.plans.set_service_account(plan, "robot")
    await other.plans.change_resources(plan, ResourceChange(set={"cpu": "3"}))
    await other.plans.change_annotations(
        plan, AnnotationChange(add=frozenset({Annotation("by", "me")}))
    )
    await other.aclose()
    after = await store.plans.get(plan)
    assert (after.active, after.priority, after.service_account) == (False, 7, "robot")
    assert after.resources["cpu"] == "3"
    assert after.summary.annotations == (Annotation("by", "me"),)
    assert after.inputs == before.inputs
