"""Runs that are pending leave their places to others, up to a bound."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.domain.hooks import HookAnswer, HookPhase, Hooks, Transition
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs.run import HookWait, PendingReason, RunQuery, RunStatus, WaitKind
from knit_workflows.store import PostgresStore
from tests.store.build import end, fetch, queue_up, register, spec
from tests.waiting import PATIENCE

S = RunStatus
HOOK = PendingReason(WaitKind.HOOK, "HookFailed", "a hook has not agreed")
URL, OTHER = "http://hooks.example/a", "http://hooks.example/b"
NOT_TODAY = HookAnswer(False, "answered 503:\nnot today", timedelta(milliseconds=40), 503)
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
        await store.execution.advance(key, S.STARTING, cause="run pod requested")
    return keys


async def reasons_of(store: PostgresStore, plan: PlanId) -> set[str]:
    """Gives why this Plan's Runs in the queue are there."""
    found = await store.runs.find(RunQuery(plan_ids=frozenset({plan})))
    reasons = [one.waiting.reason for one in found if one.waiting]
    return {one.split(" in queue, ")[1] for one in reasons if " in queue, " in one}


async def test_pending_runs_leave_their_places_to_others(store: PostgresStore, url: str) -> None:
    """Those of other Plans only: what holds one up may hold up all of its Plan."""
    stuck, other = await a_plan(store, "stuck"), await a_plan(store, "other")
    queue_up(url, stuck, range(100, 106))
    pending = await begun(store, 2, stuck)
    queue_up(url, other, range(4))
    assert await begun(store, 2) == []
    assert await reasons_of(store, other) == {"limit of 2 Runs under way reached"}
    await store.execution.hold_up(pending[0], AWAY, at=S.STARTING)
    assert len(await begun(store, 2, other)) == 1
    await store.execution.hold_up(pending[1], AWAY, at=S.STARTING)
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


# --- hooks ---


async def moved(store: PostgresStore, key: RunKey, *steps: RunStatus) -> None:
    for status in steps:
        await store.execution.advance(key, status, cause="a test")


@pytest.mark.parametrize(
    ("steps", "makes_room"),
    [
        pytest.param([], True, id="before its volumes"),
        pytest.param([S.READY], True, id="before its pod"),
        pytest.param([S.READY, S.STARTING], False, id="its container may run"),
        pytest.param([S.READY, S.STARTING, S.RUNNING], True, id="its container has ended"),
        pytest.param([S.READY, S.COMPLETING], True, id="done next"),
        pytest.param([S.ABORTING], True, id="failed next"),
    ],
)
async def test_a_run_that_waits_for_a_hook_makes_room_unless_its_container_may_run(
    store: PostgresStore, url: str, steps: list[RunStatus], makes_room: bool
) -> None:
    """What keeps a running Run from completing is asked when its container has ended."""
    held, other = await a_plan(store, "held"), await a_plan(store, "other")
    queue_up(url, held, [9])
    [key] = [one.key for one in await store.admission.admit(AdmissionLimits(1))]
    await store.admission.started([key])
    await moved(store, key, *steps)
    queue_up(url, other, [1])
    assert await begun(store, 1) == []
    await store.execution.hold_up(key, HOOK, at=steps[-1] if steps else S.WAITING)
    assert len(await begun(store, 1)) == makes_room


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [S.READY],
        [S.READY, S.STARTING],
        [S.READY, S.STARTING, S.RUNNING],
        [S.READY, S.COMPLETING],
        [S.ABORTING],
    ],
)
async def test_a_run_says_which_hook_it_waits_for(
    store: PostgresStore, url: str, steps: list[RunStatus]
) -> None:
    """In any status, with the last answer and the next try, and until it has gone on."""
    queue_up(url, await a_plan(store), [1])
    [key] = [one.key for one in await store.admission.admit(AdmissionLimits(1))]
    await moved(store, key, *steps)
    source = steps[-1] if steps else S.WAITING
    target = {S.COMPLETING: S.DONE}.get(source, S.FAILED if source.is_ending else S.ABORTING)
    step = Transition(key.run_id, 1, source, target)
    # A hook that has agreed, and an After hook, keep it from nothing.
    agreed = HookAnswer(True, "", timedelta(), 200)
    for phase, hook, answer in (
        (HookPhase.BEFORE, URL, NOT_TODAY),
        (HookPhase.BEFORE, OTHER, agreed),
        (HookPhase.AFTER, URL, NOT_TODAY),
    ):
        await store.hooks.begin(step, phase, hook)
        later = timedelta(minutes=1)
        await store.hooks.ended(step, phase, hook, answer, attempt=1, next_in=later)
    await store.execution.hold_up(key, HOOK, at=source)
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert waiting.reason == f"the hook {URL} has not agreed to → {target}: answered 503: not today"
    assert (waiting.kind, waiting.position) == (WaitKind.HOOK, None)
    assert waiting.since is not None
    assert waiting.outlook == "the hook is asked again until it agrees"
    first = waiting.hook
    assert first is not None
    assert first.next_at is not None
    delivery = step.delivery_id(HookPhase.BEFORE, URL)
    assert first == HookWait(delivery, URL, target, 1, first.next_at)
    await store.hooks.begin(step, HookPhase.BEFORE, URL)
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert waiting.hook == HookWait(delivery, URL, target, 2)
    if target.is_final:
        await store.execution.finalize(key, cause="a test")
    else:
        await moved(store, key, target)
    assert (await store.runs.get(key.run_id)).waiting is None


async def test_a_reason_that_no_delivery_tells_is_that_on_record(
    store: PostgresStore, url: str
) -> None:
    """Such as that of hooks that all agree, but want something impossible."""
    queue_up(url, await a_plan(store), [1])
    [key] = await begun(store, 1)
    await store.execution.hold_up(key, HOOK, at=S.STARTING)
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert (waiting.reason, waiting.hook) == ("a hook has not agreed", None)


@pytest.mark.parametrize("status", [S.WAITING, S.READY, S.STARTING, S.COMPLETING, S.ABORTING])
async def test_without_a_worker_for_its_hooks_a_run_says_so(
    store: PostgresStore, url: str, status: RunStatus
) -> None:
    """Where hooks are in force, they are what a step begins with."""
    queue_up(url, await a_plan(store), [1])
    [key] = await begun(store, 1)
    fetch(
        url,
        "UPDATE run SET status = %s, updated_at = updated_at - interval '2 minutes',"
        " workflow_started_at = workflow_started_at - interval '2 minutes'",
        status.value,
    )

    async def reason() -> str:
        waiting = (await store.runs.get(key.run_id)).waiting
        return "" if waiting is None else waiting.reason

    assert "hooks" not in await reason()
    await store.hooks.configure(Hooks(before=(URL,)))
    assert "no worker says what its hooks answer" in await reason()
    await store.hooks.configure(Hooks(after=(URL,)))
    assert "hooks" not in await reason()


@pytest.mark.parametrize(("total", "ceiling"), [(2, 20), (400, 500), (600, 600)])
@pytest.mark.patient
async def test_pending_runs_are_bounded(
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


async def test_a_place_that_a_pending_run_leaves_is_given_away_at_once(
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
