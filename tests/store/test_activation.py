"""A Plan with many Runs is activated and deactivated page by page, whatever comes in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import psycopg
import pytest

from knit_workflows import names
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.ports import AdmissionLimits
from knit_workflows.domain.runs.run import RunQuery, RunStatus, WaitKind
from knit_workflows.store import PostgresStore
from knit_workflows.store.plans import activation
from tests.postgres import blocks_somebody, connection_to
from tests.store.build import fetch, only, queue_up, register, spec, upload
from tests.waiting import PATIENCE, until

MANY = AdmissionLimits(total=1000)
PAGE = 10


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "_PAGE", PAGE)
    monkeypatch.setattr(activation, "_MOVES_FOR", timedelta(hours=1))


async def a_queue(store: PostgresStore, url: str, runs: int, image: str = "demo:1") -> PlanId:
    """Makes a Plan with so many waiting Runs."""
    plan_id = await register(store, spec({"/a": "k:a"}, image=image))
    fetch(url, "DELETE FROM outbox")
    queue_up(url, plan_id, list(range(runs, 0, -1)))
    return plan_id


def statuses(url: str, plan_id: str) -> Counter[str]:
    rows = fetch(url, "SELECT status FROM run WHERE plan_id = %s", plan_id)
    return Counter(row["status"] for row in rows)


@contextmanager
def locked(url: str, run_id: str) -> Iterator[psycopg.Connection]:
    """Somebody else changes this Run meanwhile."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM run WHERE run_id = %s FOR UPDATE", [run_id])
        yield connection


def nth_run(url: str, plan_id: str, place: int) -> str:
    """Gives a Run of the Plan by its place in the order in which they are moved."""
    rows = fetch(
        url,
        "SELECT run_id::text FROM run WHERE plan_id = %s ORDER BY updated_at, run_id",
        plan_id,
    )
    return str(rows[place]["run_id"])


@asynccontextmanager
async def stuck_in_the_second_page(
    store: PostgresStore, url: str, plan_id: PlanId
) -> AsyncIterator[asyncio.Task[object]]:
    """A deactivation that has moved its first page and waits for a Run of the second."""
    async with asyncio.TaskGroup() as group:
        with locked(url, nth_run(url, plan_id, PAGE + PAGE // 2)) as connection:
            moving = group.create_task(store.plans.set_active(plan_id, False))
            await until(lambda: blocks_somebody(url, connection))
            yield moving


async def test_runs_move_in_several_transactions(store: PostgresStore, url: str) -> None:
    plan_id = await a_queue(store, url, 35)
    for active, status in ((False, "deactivated"), (True, "waiting")):
        assert (await store.plans.set_active(plan_id, active)).active is active
        assert statuses(url, plan_id) == {status: 35}
        commits = fetch(url, "SELECT DISTINCT xmin::text FROM run WHERE plan_id = %s", plan_id)
        assert len(commits) == 4
    events = fetch(url, "SELECT cause, count(*) AS runs FROM run_event GROUP BY cause")
    assert {one["cause"]: one["runs"] for one in events} == {
        "Plan deactivated": 35,
        "Plan activated": 35,
    }


async def test_new_runs_do_not_wait_for_a_page(store: PostgresStore, url: str) -> None:
    """The Projector, which works for all Plans, goes on while a page waits for one Run."""
    plan_id = await a_queue(store, url, 35)
    await upload(store, "k:a")
    async with stuck_in_the_second_page(store, url, plan_id) as moving:
        async with asyncio.timeout(PATIENCE):
            step = await store.projection.project(page_size=10)
        assert step is not None
        assert step.created == 1
        assert statuses(url, plan_id) == {"deactivated": PAGE + 1, "waiting": 25}
    await moving
    assert statuses(url, plan_id) == {"deactivated": 36}


async def test_runs_that_were_not_moved_yet_are_not_admitted(
    store: PostgresStore, url: str
) -> None:
    """They say why, and take no place from the Runs of another Plan."""
    plan_id = await a_queue(store, url, 35)
    async with stuck_in_the_second_page(store, url, plan_id) as moving:
        assert await store.admission.admit(MANY) == []
        query = RunQuery(frozenset({plan_id}), statuses=frozenset({RunStatus.WAITING}))
        reasons = {one.waiting for one in await store.runs.find(query)}
        assert only(reasons).kind is WaitKind.INACTIVE
        other = await register(store, spec({"/b": "k:b"}))
        queue_up(url, other, [0], priority=-5)
        admitted = await store.admission.admit(AdmissionLimits(total=1))
        assert [one.plan_id for one in admitted] == [other]
    await moving


async def interrupted(store: PostgresStore, url: str, plan_id: PlanId) -> None:
    """A deactivation whose caller goes away between two pages."""
    async with stuck_in_the_second_page(store, url, plan_id) as moving:
        moving.cancel()
        await asyncio.wait({moving}, timeout=PATIENCE)
    assert statuses(url, plan_id) == {"deactivated": PAGE, "waiting": 25}


async def test_a_second_call_completes_an_interrupted_one(store: PostgresStore, url: str) -> None:
    plan_id = await a_queue(store, url, 35)
    await interrupted(store, url, plan_id)
    assert (await store.plans.get(plan_id)).active is False
    assert await store.admission.admit(MANY) == []
    await store.plans.set_active(plan_id, False)
    assert statuses(url, plan_id) == {"deactivated": 35}


async def test_very_many_runs_do_not_keep_the_caller(
    store: PostgresStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Plan is as it was told to be; housekeeping moves the rest."""
    monkeypatch.setattr(activation, "_MOVES_FOR", timedelta(0))
    plan_id = await a_queue(store, url, 35)
    assert (await store.plans.set_active(plan_id, False)).active is False
    assert statuses(url, plan_id) == {"deactivated": PAGE, "waiting": 25}
    assert await store.housekeeping.finish_activations() == 25


@pytest.mark.parametrize("active", [False, True])
async def test_housekeeping_completes_an_interrupted_one(
    store: PostgresStore, url: str, active: bool
) -> None:
    """In either direction; nobody else's Runs are touched."""
    plan_id, other = await a_queue(store, url, 35), await a_queue(store, url, 5, image="other:1")
    assert await store.housekeeping.finish_activations() == 0
    await interrupted(store, url, plan_id)
    if active:
        fetch(url, "UPDATE plan SET active = true WHERE plan_id = %s", plan_id)
    assert await store.housekeeping.finish_activations() == (PAGE if active else 25)
    assert statuses(url, plan_id) == {"waiting" if active else "deactivated": 35}
    assert statuses(url, other) == {"waiting": 5}
    actors = fetch(url, "SELECT actor, count(*) AS runs FROM run_event GROUP BY actor")
    assert {one["actor"] for one in actors} == {"user", "knit"}


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.patient
async def test_opposite_directions_at_once_end_as_the_plan_does(
    store: PostgresStore, url: str, turn: int
) -> None:
    plan_id = await a_queue(store, url, 95)
    await store.admission.admit(AdmissionLimits(total=30))
    wishes = [bool((number + turn) % 2) for number in range(6)]
    await asyncio.gather(*(store.plans.set_active(plan_id, one) for one in wishes))
    active = (await store.plans.get(plan_id)).active
    assert statuses(url, plan_id) == {"waiting" if active else "deactivated": 95}
    assert await store.housekeeping.finish_activations() == 0


async def test_the_last_of_two_directions_wins(store: PostgresStore, url: str) -> None:
    """The earlier call leaves its rest alone: what it has moved comes back."""
    plan_id = await a_queue(store, url, 35)
    async with stuck_in_the_second_page(store, url, plan_id) as moving:
        back = asyncio.create_task(
            store.plans.set_active(plan_id, True)  # type: ignore[arg-type]
        )
        await asyncio.sleep(0.2)
    await asyncio.gather(moving, back)
    assert (await store.plans.get(plan_id)).active is True
    assert statuses(url, plan_id) == {"waiting": 35}


async def test_only_the_executions_of_admitted_runs_are_told(
    store: PostgresStore, url: str
) -> None:
    """Nobody follows the others; those that were admitted are moved first."""
    plan_id = await a_queue(store, url, 35)
    admitted = await store.admission.admit(AdmissionLimits(total=3))
    listening = psycopg.connect(url, autocommit=True)
    listening.execute(f"LISTEN {names.RUN_CHANNEL}".encode())
    async with stuck_in_the_second_page(store, url, plan_id) as moving:
        rows = fetch(url, "SELECT run_id::text FROM run WHERE generation = 2")
        assert {row["run_id"] for row in rows} == {one.key.run_id for one in admitted}
    await moving
    told = {one.payload for one in listening.notifies(timeout=PATIENCE, stop_after=len(admitted))}
    told |= {one.payload for one in listening.notifies(timeout=0.5)}
    listening.close()
    assert told == {one.key.run_id for one in admitted}


async def test_a_plan_that_is_as_it_should_be_moves_nothing(store: PostgresStore, url: str) -> None:
    plan_id = await a_queue(store, url, 3)
    await store.plans.set_active(plan_id, True)
    assert connection_to(url).execute("SELECT FROM run_event").fetchall() == []
