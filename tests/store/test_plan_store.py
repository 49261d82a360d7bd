"""What the API asks of Plans: registration, filters, details, neighbours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from knit_workflows.domain.errors import (
    PlanNotFound,
    TooManyRuns,
)
from knit_workflows.domain.ids import KnitId, PlanId, is_id
from knit_workflows.domain.plans.model import (
    Annotation,
    AnnotationChange,
    ResourceChange,
)
from knit_workflows.domain.plans.options import PlanOptions, PodOptions
from knit_workflows.domain.ports import AdmissionLimits
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.store.connection import Session
from tests.store.build import (
    drain,
    fetch,
    register,
    spec,
    upload,
)

NOWHERE = "11111111-1111-4111-8111-111111111111"
S = RunStatus


async def test_too_many_runs_leave_no_plan(store: PostgresStore, url: str) -> None:
    for _ in range(4):
        await upload(store, "k:a")
    await drain(store)
    wanted = spec({"/a": "k:a", "/b": "k:a"})
    with pytest.raises(TooManyRuns, match="16"):
        await store.plans.register(wanted, new_runs_limit=15)
    assert fetch(url, "SELECT FROM plan WHERE name IS NULL") == []
    assert fetch(url, "SELECT * FROM outbox") == []


async def test_a_preview_leaves_no_row(store: PostgresStore, url: str) -> None:
    await store.plans.preview(spec({"/a": "k:a"}), limit=2)
    assert fetch(url, "SELECT FROM plan WHERE name IS NULL") == []
    assert fetch(url, "SELECT FROM outbox") == []


async def test_candidates_are_counted_where_they_are(
    store: PostgresStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registration loads none of them, a preview only those that it shows."""
    for _ in range(30):
        await upload(store, "k:a k:b")
    await drain(store)
    loaded: list[str] = []
    rows = Session.rows

    async def spied(session: Session, query: str, params: Any = None) -> list[Any]:
        found = await rows(session, query, params)
        lists = [value for row in found for value in row if isinstance(value, list)]
        loaded.extend(one for texts in lists for one in map(str, texts) if is_id(one))
        return found

    monkeypatch.setattr(Session, "rows", spied)
    wanted = spec({"/a": "k:a", "/b": "k:b", "/c": "k:a k:b"})
    preview = await store.plans.preview(wanted, limit=2)
    assert (preview.runs, preview.candidates) == (27_000, {"/a": 30, "/b": 30, "/c": 30})
    assert len(preview.assignments) == 2
    assert len(loaded) <= 3 * (2 + 2)
    loaded.clear()
    with pytest.raises(TooManyRuns, match="27000"):
        await store.plans.register(wanted, new_runs_limit=26_999)
    await store.plans.register(wanted, new_runs_limit=27_000)
    assert loaded == []


@pytest.mark.patient
async def test_a_preview_of_what_somebody_else_registers_meanwhile(store: PostgresStore) -> None:
    """It answers as if it had come before or after; it never hinders the other."""
    for number in range(5):
        wanted = spec({"/a": f"k:{number}"})
        results = await asyncio.gather(
            *(store.plans.preview(wanted, limit=1) for _ in range(3)),
            register(store, wanted),
            return_exceptions=True,
        )
        assert isinstance(results.pop(), str)
        assert {type(one).__name__ for one in results} <= {"PlanPreview", "EquivalentPlan"}


@pytest.mark.parametrize("plan_id", [NOWHERE, "x"])
async def test_a_plan_that_is_not_there(store: PostgresStore, plan_id: str) -> None:
    with pytest.raises(PlanNotFound):
        await store.plans.get(PlanId(plan_id))
    with pytest.raises(PlanNotFound):
        await store.runs.ensure(PlanId(plan_id), {"/a": KnitId(NOWHERE)})


@pytest.mark.patient
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


@pytest.mark.patient
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


@pytest.mark.patient
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


async def test_what_another_process_changes_is_seen(store: PostgresStore, url: str) -> None:
    """Mountpoints are remembered, for they never change; what can change is read each time."""
    plan = await register(store, spec({"/a": "k:a"}, {"/b": "k:b"}))
    before = await store.plans.get(plan)
    other = PostgresStore(StoreSettings(url=SecretStr(url)))
    await other.plans.set_active(plan, False)
    await other.plans.set_priority(plan, 7)
    await other.plans.set_service_account(plan, "robot")
    await other.plans.set_options(plan, PlanOptions(PodOptions(queue="q")))
    await other.plans.change_resources(plan, ResourceChange(set={"cpu": "3"}))
    await other.plans.change_annotations(
        plan, AnnotationChange(add=frozenset({Annotation("by", "me")}))
    )
    await other.aclose()
    after = await store.plans.get(plan)
    assert (after.active, after.priority, after.service_account) == (False, 7, "robot")
    assert after.resources["cpu"] == "3"
    assert after.options.pod.queue == "q"
    assert after.summary.annotations == (Annotation("by", "me"),)
    assert after.inputs == before.inputs
