"""Runs that are pending leave their places to others, up to a bound."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs import PendingReason, RunQuery, RunStatus, WaitKind
from knit_workflows.store import PostgresStore
from tests.store.build import end, fetch, queue_up, register, spec
from tests.waiting import PATIENCE

S = RunStatus
AWAY = PendingReason(WaitKind.BACKEND, "BackendUnavailable", "the daemon does not answer")


async def a_plan(store: PostgresStore, name: str = "one") -> PlanId:
    """Makes a Plan that nothing fits."""
    return await register(store, spec({"/a": f"k:{name}"}, image=f"{name}:1"))


async def begun(store: PostgresStore, total: int, plan: PlanId | None = None) -> list[RunKey]:
    """Admits, and launches what is; gives it. All of it is to be of `plan`."""
    admitted = await store.admission.admit(AdmissionLimits(total))
    assert plan is None or {one.plan_id for one in admitted} == {plan}
    keys = [one.key for one in admitted]
    await store.admission.started(keys)
    for key in keys:
        await store.execution.advance(key, S.READY, cause="volumes created")
        await store.execution.advance(key, S.STARTING, cause="run pod created")
    return keys


async def reasons_of(store: PostgresStore, plan: PlanId) -> set[str]:
    """Gives why this Plan's Runs in the queue are there."""
    found = await store.runs.find(RunQuery(plan_ids=frozenset({plan})))
    reasons = [one.waiting.reason for one in found if one.waiting]
    return {one.split(" in queue, ")[1] for one in reasons if " in queue, " in one}


async def test_runs_that_are_held_up_leave_their_places_to_others(
    store: PostgresStore, url: str
) -> None:
    """Those of other Plans only: what holds one up may hold up all of its Plan."""
    stuck, other = await a_plan(store, "stuck"), await a_plan(store, "other")
    queue_up(url, stuck, range(100, 106))
    held_up = await begun(store, 2, stuck)
    queue_up(url, other, range(4))
    assert await begun(store, 2) == []
    assert await reasons_of(store, other) == {"limit of 2 Runs under way reached"}
    await store.execution.hold_up(held_up[0], AWAY, at=S.STARTING)
    assert len(await begun(store, 2, other)) == 1
    await store.execution.hold_up(held_up[1], AWAY, at=S.STARTING)
    assert await reasons_of(store, other) == {
        "a place is free: a worker of the role engine admits it next"
    }
    assert len(await begun(store, 2, other)) == 1
    assert await begun(store, 2) == []
    assert await reasons_of(store, other) == {"limit of 2 Runs under way reached"}
    fetch(url, "UPDATE run SET status = 'failed' WHERE plan_id = %s", other)
    assert await begun(store, 2) == []
    assert await reasons_of(store, stuck) == {
        "limit of 2 Runs of this Plan under way reached, 2 pending"
    }


async def test_what_goes_on_again_is_counted_again(store: PostgresStore, url: str) -> None:
    """More than the limit may be under way then; the next one waits until fewer are."""
    stuck, other = await a_plan(store, "stuck"), await a_plan(store, "other")
    queue_up(url, stuck, [9])
    [key] = await begun(store, 1, stuck)
    await store.execution.hold_up(key, AWAY, at=S.STARTING)
    queue_up(url, other, range(3))
    [first] = await begun(store, 1, other)
    await store.execution.advance(key, S.RUNNING, cause="container started")
    await end(store, first)
    assert await begun(store, 1) == []
    assert await reasons_of(store, other) == {"limit of 1 Run under way reached"}
    await end(store, key)
    assert len(await begun(store, 1, other)) == 1


async def test_a_run_whose_image_is_being_pulled_keeps_its_place(
    store: PostgresStore, url: str
) -> None:
    """It goes on by itself, so it is at work."""
    plan, other = await a_plan(store, "pulls"), await a_plan(store, "other")
    queue_up(url, plan, [9])
    [key] = await begun(store, 1, plan)
    await store.execution.hold_up(
        key, PendingReason(WaitKind.PROGRESS, "Pulling", "is pulled"), at=S.STARTING
    )
    queue_up(url, other, [1])
    assert await begun(store, 1) == []
    await store.execution.hold_up(key, AWAY, at=S.STARTING)
    assert len(await begun(store, 1, other)) == 1


@pytest.mark.parametrize(("total", "ceiling"), [(2, 20), (400, 500), (600, 600)])
async def test_runs_that_are_held_up_are_bounded(
    store: PostgresStore, url: str, total: int, ceiling: int
) -> None:
    """Ten times the limit, or 500; where the limit is larger, all are counted again."""
    for number in range(ceiling // total):
        plan = await a_plan(store, f"p{number}")
        queue_up(url, plan, range(100, 100 + total), admitted=total)
    more = ceiling % total
    if more:
        queue_up(url, await a_plan(store, "more"), range(100, 100 + more), admitted=more)
    fetch(
        url,
        "UPDATE run SET status = 'starting', holdup = %s WHERE status = 'running'",
        '{"kind": "image", "code": "ErrImagePull", "message": "", "until": null}',
    )
    last = await a_plan(store, "last")
    queue_up(url, last, range(3))
    assert await begun(store, total) == []
    reached = f"limit of {ceiling} Runs under way or pending reached, {ceiling} pending"
    assert await reasons_of(store, last) == {reached}
    fetch(
        url,
        "DELETE FROM run WHERE run_id IN (SELECT run_id FROM run WHERE holdup IS NOT NULL LIMIT 1)",
    )
    assert len(await begun(store, total, last)) == 1


async def test_a_place_that_a_held_up_run_leaves_is_given_away_at_once(
    store: PostgresStore, url: str
) -> None:
    """The Projector hears of it; it does not wait until it looks by itself."""
    queue_up(url, await a_plan(store), [1])
    [key] = await begun(store, 1)
    async with aclosing(store.projection.wake_ups(fallback=timedelta(hours=1))) as work:
        await anext(work)
        await anext(work)
        waits = asyncio.ensure_future(anext(work))
        await store.execution.hold_up(key, AWAY, at=S.STARTING)
        await asyncio.wait_for(waits, PATIENCE)
