"""Which Runs may start, which have, and stops on their way."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest
from pydantic import SecretStr

from knit_workflows.domain.errors import IllegalMove, PlanNotFound, RunNotFound, Superseded
from knit_workflows.domain.ids import PlanId, RunId
from knit_workflows.domain.ports import ADMITTED_AT_ONCE, AdmissionLimits, Pass, RunKey
from knit_workflows.domain.runs.run import Exit, RunQuery, RunStatus
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.store.runs import admission
from tests.store.build import (
    admit_all,
    begin,
    drain,
    end,
    fetch,
    only,
    queue_up,
    register,
    runs_in,
    spec,
    upload,
)
from tests.waiting import PATIENCE

S = RunStatus
MANY = AdmissionLimits(total=1000)


async def waiting(store: PostgresStore, count: int, *, image: str = "demo:1") -> PlanId:
    """Makes a Plan with `count` waiting Runs."""
    plan = await register(store, spec({"/a": f"k:{image}"}, image=image))
    for _ in range(count):
        await upload(store, f"k:{image}")
    await drain(store)
    return plan


async def admit(store: PostgresStore, total: int, per_plan: int | None = None) -> list[RunKey]:
    return [one.key for one in await store.admission.admit(AdmissionLimits(total, per_plan))]


@pytest.mark.patient
async def test_admitted_runs_are_given_until_they_are_started(store: PostgresStore) -> None:
    plan = await waiting(store, 2)
    first = await store.admission.admit(MANY)
    assert len(first) == 2
    assert {one.plan_id for one in first} == {plan}
    assert {one.image for one in first} == {"demo:1"}
    assert all(len(one.input_ids) == 1 for one in first)
    assert await store.admission.admit(MANY) == first
    await store.admission.started([first[0].key])
    assert await store.admission.admit(MANY) == first[1:]
    await store.admission.started([one.key for one in first])
    assert await store.admission.admit(MANY) == []


async def passes(store: PostgresStore, *started: RunKey, page_size: int = 10) -> list[Pass]:
    """Projects until nothing is left, then admits; gives what each step did."""
    done: list[Pass] = []
    while not done or done[-1].startable is None:
        one = await store.admission.project_and_admit(
            page_size=page_size, limits=MANY, started=started
        )
        done.append(one)
    return done


async def test_the_last_event_admits_the_runs_that_it_means(store: PostgresStore) -> None:
    """In one transaction; events before it, and pages of it, admit none."""
    await register(store, spec({"/a": "k:v"}))
    for _ in range(3):
        await upload(store, "k:v")
    *before, last = await passes(store, page_size=2)
    assert {one.startable for one in before} == {None}
    assert last.startable is not None
    assert len(last.startable) == 3
    [nothing] = await passes(store, *(one.key for one in last.startable))
    assert nothing == Pass(None, [])
    assert await store.admission.admit(MANY) == []


async def test_workflows_are_not_taken_for_started_before_the_last_event(
    store: PostgresStore,
) -> None:
    """The caller keeps them in mind until a step has admitted."""
    await waiting(store, 1)
    [first] = await admit(store, 10)
    for _ in range(2):
        await upload(store, "k:other")
    step = await store.admission.project_and_admit(page_size=10, limits=MANY, started=[first])
    assert step.startable is None
    assert await admit(store, 10) == [first]


async def test_a_step_that_fails_at_its_end_has_done_nothing(
    store: PostgresStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Runs nor the event are touched, and the next step finds it all."""
    await upload(store, "k:v")
    await drain(store)
    await register(store, spec({"/a": "k:v"}))
    monkeypatch.setattr(admission, "_admission", lambda *_: [("SELECT 1 / 0", None)])
    with pytest.raises(psycopg.errors.DivisionByZero):
        await passes(store)
    assert runs_in(url) == {}
    monkeypatch.undo()
    *_, last = await passes(store)
    assert last.startable is not None
    assert len(last.startable) == 1


async def test_no_more_than_the_limit_are_under_way(store: PostgresStore) -> None:
    await waiting(store, 5)
    first = await admit(store, 3)
    assert len(first) == 3
    await store.admission.started(first)
    assert await admit(store, 3) == []
    await end(store, first[0])
    second = await admit(store, 3)
    assert len(second) == 1
    assert await admit(store, 1) == second


@pytest.mark.patient
async def test_the_limit_per_plan(store: PostgresStore) -> None:
    one = await waiting(store, 4, image="one:1")
    two = await waiting(store, 3, image="two:1")
    first = await store.admission.admit(AdmissionLimits(total=10, per_plan=2))
    assert sorted(run.plan_id for run in first) == sorted([one, one, two, two])
    assert await store.admission.admit(AdmissionLimits(total=10, per_plan=2)) == first
    assert len(await store.admission.admit(AdmissionLimits(total=5, per_plan=3))) == 5
    assert len(await store.admission.admit(AdmissionLimits(total=10, per_plan=3))) == 6


async def test_higher_priority_then_older_first(store: PostgresStore, url: str) -> None:
    await waiting(store, 5)
    ids = [
        row["run_id"]
        for row in fetch(
            url, "SELECT run_id::text FROM run WHERE status = 'waiting' ORDER BY run_id"
        )
    ]
    for place, run_id in enumerate(ids):
        fetch(
            url,
            "UPDATE run SET priority = %s, created_at = now() + %s * interval '1s'"
            " WHERE run_id = %s",
            int(place == 4), -place, run_id,
        )  # fmt: skip
    for per_plan in (None, 100):
        order = [one.run_id for one in await admit(store, 2, per_plan)]
        assert order == [ids[4], ids[3]]
    assert [one.run_id for one in await admit(store, 9)] == [ids[i] for i in (4, 3, 2, 1, 0)]


# --- fairness ---


async def a_plan(store: PostgresStore, name: str) -> PlanId:
    """Makes a Plan that nothing fits."""
    return await register(store, spec({"/a": f"k:{name}"}, image=f"{name}:1"))


async def admitted_plans(
    store: PostgresStore, total: int, per_plan: int | None = None
) -> list[str]:
    """Admits once; gives the Plans of the Runs that were, and says that they were started."""
    admitted = await store.admission.admit(AdmissionLimits(total, per_plan))
    await store.admission.started([one.key for one in admitted])
    return [one.plan_id for one in admitted]


@pytest.mark.parametrize("per_plan", [None, 50])
async def test_a_plan_with_one_run_does_not_wait_behind_the_hundred_of_another(
    store: PostgresStore, url: str, per_plan: int | None
) -> None:
    """Each Plan gets one place before any gets two, however many Runs it has and how old."""
    many, one = await a_plan(store, "many"), await a_plan(store, "one")
    queue_up(url, many, range(1000, 1100))
    queue_up(url, one, [1])
    assert sorted(await admitted_plans(store, 2, per_plan)) == sorted([many, one])
    assert await admitted_plans(store, 4, per_plan) == [many] * 2


async def test_the_plan_with_fewer_runs_under_way_goes_first(
    store: PostgresStore, url: str
) -> None:
    """Runs under way count as much as those chosen in the same round."""
    busy, idle = await a_plan(store, "busy"), await a_plan(store, "idle")
    queue_up(url, busy, range(100, 110), admitted=3)
    queue_up(url, idle, range(10))
    assert await admitted_plans(store, 6) == [idle] * 3
    assert sorted(await admitted_plans(store, 8)) == sorted([busy, idle])


async def test_a_higher_priority_goes_before_fairness(store: PostgresStore, url: str) -> None:
    """Priority first: a Plan keeps all places as long as it has Runs of a higher one."""
    urgent, usual = await a_plan(store, "urgent"), await a_plan(store, "usual")
    queue_up(url, usual, range(100, 110))
    queue_up(url, urgent, range(5), priority=1)
    queue_up(url, urgent, range(200, 205), priority=-1)
    assert await admitted_plans(store, 5) == [urgent] * 5
    assert await admitted_plans(store, 15) == [usual] * 10
    assert await admitted_plans(store, 20) == [urgent] * 5


async def test_runs_take_over_the_priority_of_their_plan(store: PostgresStore, url: str) -> None:
    """A new Run has its Plan's priority; an earlier one keeps its own until the Plan's is set."""
    plan = await waiting(store, 1)
    fetch(url, "UPDATE plan SET priority = 7 WHERE plan_id = %s", plan)
    await upload(store, "k:demo:1")
    await drain(store)
    found = fetch(url, "SELECT priority FROM run WHERE plan_id = %s ORDER BY created_at", plan)
    assert [row["priority"] for row in found] == [0, 7]
    newer, older = [one.key.run_id for one in await store.admission.admit(MANY)]
    assert ((await store.runs.get(newer)).priority, (await store.runs.get(older)).priority) == (
        7,
        0,
    )


async def test_the_priority_of_a_plan_moves_its_waiting_runs(
    store: PostgresStore, url: str
) -> None:
    """Sets later, it holds for what waits, for what is retried, and for what waits again."""
    first, second = await a_plan(store, "first"), await a_plan(store, "second")
    queue_up(url, first, range(100, 103), admitted=1)
    queue_up(url, second, range(3))
    assert await store.plans.set_active(second, False)
    await store.plans.set_priority(second, 1)
    assert await store.plans.set_active(second, True)
    assert await admitted_plans(store, 3) == [second] * 2
    await store.plans.set_priority(first, 2)
    [done] = fetch(url, "SELECT run_id::text FROM run WHERE status = 'running'")
    fetch(url, "UPDATE run SET status = 'failed' WHERE run_id = %s", done["run_id"])
    assert (await store.runs.retry(done["run_id"])).priority == 2
    assert await admitted_plans(store, 5) == [first] * 3


async def test_one_call_admits_a_bounded_number(store: PostgresStore, url: str) -> None:
    """A flood is admitted in rounds, so that its first Runs start at once."""
    plan = await a_plan(store, "flood")
    queue_up(url, plan, range(ADMITTED_AT_ONCE + 10))
    assert len(await admitted_plans(store, 1000)) == ADMITTED_AT_ONCE
    assert len(await admitted_plans(store, 1000)) == 10
    assert await admitted_plans(store, 1000) == []


async def test_processes_that_admit_at_once_keep_both_limits(
    store: PostgresStore, url: str
) -> None:
    """Two processes and two tasks each: neither limit is exceeded, nothing is left over."""
    for name in "abc":
        queue_up(url, await a_plan(store, name), range(20))
    other = PostgresStore(StoreSettings(url=SecretStr(url)))
    await other.open()
    try:
        await asyncio.gather(*(admit(one, 7, 3) for one in (store, other) * 4))
    finally:
        await other.aclose()
    found = fetch(
        url, "SELECT count(*) AS runs FROM run WHERE admitted_at IS NOT NULL GROUP BY plan_id"
    )
    assert sorted(row["runs"] for row in found) == [2, 2, 3]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.patient) for seed in range(1, 12))]
)
async def test_admission_is_what_the_plain_model_says(
    store: PostgresStore, url: str, seed: int
) -> None:
    """Whatever waits and is under way: taking the best Run one by one gives the same."""
    dice = random.Random(seed)
    for number in range(dice.choice((1, 3, 12, 90))):
        plan = await a_plan(store, f"p{number}")
        for priority in dice.sample(range(-1, 3), dice.choice((1, 1, 2))):
            ages = [dice.randrange(30) for _ in range(dice.choice((1, 2, 9, 40, 100)))]
            under_way = dice.choice((0, 0, 1, 3))
            queue_up(url, plan, ages, priority=priority, admitted=under_way)
    under_way = only(fetch(url, "SELECT count(*) FROM run WHERE admitted_at IS NOT NULL"))["count"]
    limits = AdmissionLimits(under_way + dice.choice((0, 1, 5, 64, 200)), dice.choice((None, 1, 4)))
    wanted = modelled(url, limits)
    assert {one.key.run_id for one in await store.admission.admit(limits)} == set(wanted)


def modelled(url: str, limits: AdmissionLimits) -> list[str]:
    """Takes the next Run as often as the limits allow, one after the other."""
    runs = fetch(url, "SELECT run_id::text, plan_id::text, priority, created_at, status FROM run")
    under_way = Counter(run["plan_id"] for run in runs if run["status"] == "running")
    queue = [run for run in runs if run["status"] == "waiting"]
    chosen: list[str] = []
    while len(chosen) < ADMITTED_AT_ONCE and under_way.total() < limits.total:
        able = [
            run
            for run in queue
            if limits.per_plan is None or under_way[run["plan_id"]] < limits.per_plan
        ]
        if not able:
            break
        best = min(
            able,
            key=lambda run: (
                -run["priority"], under_way[run["plan_id"]], run["created_at"], run["run_id"],
            ),
        )  # fmt: skip
        chosen.append(best["run_id"])
        under_way[best["plan_id"]] += 1
        queue.remove(best)
    return chosen


async def test_the_limits_in_force_are_recorded_when_they_change(
    store: PostgresStore, url: str
) -> None:
    """One row, written only when it says something else: admission is called all the time."""

    def recorded() -> dict[str, object]:
        return only(fetch(url, "SELECT total, per_plan, xmin::text, xmax::text FROM admission"))

    await admit(store, 20)
    first = recorded()
    assert (first["total"], first["per_plan"]) == (20, None)
    await admit(store, 20)
    assert recorded() == first
    await admit(store, 20, 3)
    assert (recorded()["total"], recorded()["per_plan"]) == (20, 3)
    await admit(store, 10**12)
    assert (recorded()["total"], recorded()["per_plan"]) == (2**31 - 1, None)


async def test_nothing_is_admitted_while_there_is_a_reason(store: PostgresStore, url: str) -> None:
    """It is told with each waiting Run, whatever the limits; and forgotten when it has gone."""
    plan = await register(store, spec({"/in": "type:data"}))
    queue_up(url, plan, [1, 2])
    query = RunQuery(plan_ids=frozenset({plan}))
    assert (
        await store.admission.admit(AdmissionLimits(total=5, held="the disk has 3 MiB left")) == []
    )
    reasons = [one.waiting.reason for one in await store.runs.find(query) if one.waiting]
    assert sorted(reasons) == [
        f"{place} in queue, the disk has 3 MiB left" for place in ("1st", "2nd")
    ]
    assert len(await store.admission.admit(AdmissionLimits(total=1))) == 1
    reasons = [one.waiting.reason for one in await store.runs.find(query) if one.waiting]
    assert "1st in queue, limit of 1 Run under way reached" in reasons


async def test_uploads_are_neither_admitted_nor_counted(store: PostgresStore) -> None:
    await begin(store)
    await waiting(store, 1)
    assert len(await admit(store, 1)) == 1


@pytest.mark.patient
async def test_processes_that_admit_at_once_keep_the_limit(store: PostgresStore) -> None:
    await waiting(store, 20)
    answers = await asyncio.gather(*(admit(store, 7) for _ in range(8)))
    assert len({key for answer in answers for key in answer}) == 7


async def test_a_stop_before_admission_is_finished_without_a_workflow(
    store: PostgresStore, url: str
) -> None:
    await waiting(store, 1)
    run_id = only(fetch(url, "SELECT run_id::text FROM run WHERE status = 'waiting'"))["run_id"]
    detail = await store.runs.stop(run_id, fail=True)
    assert detail.summary.status is S.ABORTING
    assert detail.summary.exit == Exit(253, "aborted by user")
    assert fetch(url, "SELECT * FROM outbox") == []
    assert await admit(store, 9) == []
    assert await store.admission.finish_unstarted() == 1
    assert await store.admission.finish_unstarted() == 0
    assert (await store.runs.get(run_id)).summary.status is S.FAILED
    statuses = [one.to_status for one in await store.runs.events(run_id)]
    assert statuses == [S.WAITING, S.ABORTING, S.FAILED]


async def test_a_stop_after_admission_waits_for_the_workflow(store: PostgresStore) -> None:
    await waiting(store, 1)
    key = only(await admit(store, 9))
    await store.runs.stop(key.run_id, fail=True)
    assert await store.admission.finish_unstarted() == 0
    assert await store.admission.stop_requests() == []
    assert await admit(store, 9) == [key]
    await store.admission.started([key])
    order = only(await store.admission.stop_requests())
    assert (order.key, order.fail) == (key, True)
    await store.admission.close_event(order.event_id)
    await store.admission.close_event(order.event_id)
    assert await store.admission.stop_requests() == []


async def test_stop_orders_come_oldest_first_and_only_while_they_mean_something(
    store: PostgresStore, url: str
) -> None:
    await waiting(store, 3)
    keys = await admit_all(store)
    for key in keys:
        await store.execution.advance(key, S.READY, cause="x")
        await store.runs.stop(key.run_id, fail=False)
    orders = await store.admission.stop_requests()
    assert [one.key for one in orders] == keys
    assert not any(one.fail for one in orders)
    await store.execution.finalize(keys[0], cause="x")
    fetch(url, "UPDATE run SET generation = 2 WHERE run_id = %s", keys[1].run_id)
    assert [one.key for one in await store.admission.stop_requests()] == [keys[2]]
    assert len(fetch(url, "SELECT * FROM outbox WHERE kind = 'stop_run'")) == 1


@pytest.mark.parametrize(
    ("status", "fail", "after"),
    [
        (S.DEACTIVATED, True, S.ABORTING),
        (S.DEACTIVATED, False, None),
        (S.WAITING, True, S.ABORTING),
        (S.WAITING, False, None),
        (S.READY, True, S.ABORTING),
        (S.READY, False, S.COMPLETING),
        (S.STARTING, True, S.ABORTING),
        (S.STARTING, False, S.COMPLETING),
        (S.RUNNING, True, S.ABORTING),
        (S.RUNNING, False, S.COMPLETING),
        (S.ABORTING, True, S.ABORTING),
        (S.ABORTING, False, None),
        (S.COMPLETING, True, None),
        (S.COMPLETING, False, S.COMPLETING),
        (S.DONE, True, None),
        (S.DONE, False, None),
        (S.FAILED, True, None),
        (S.FAILED, False, None),
        (S.INVALIDATED, True, None),
        (S.INVALIDATED, False, None),
    ],
)
async def test_the_stop_matrix(
    store: PostgresStore, url: str, status: S, fail: bool, after: S | None
) -> None:
    await waiting(store, 1)
    key = only(await admit_all(store))
    fetch(url, "UPDATE run SET status = %s WHERE run_id = %s", status.value, key.run_id)
    before = await store.runs.get(key.run_id)
    if after is None:
        with pytest.raises(IllegalMove):
            await store.runs.stop(key.run_id, fail=fail)
        assert await store.runs.get(key.run_id) == before
    elif after is status:
        assert await store.runs.stop(key.run_id, fail=fail) == before
        assert await store.admission.stop_requests() == []
    else:
        detail = await store.runs.stop(key.run_id, fail=fail)
        assert detail.summary.status is after
        wanted = Exit(253, "aborted by user") if fail else Exit(0, "stopped by user")
        assert detail.summary.exit == wanted
        assert only(await store.admission.stop_requests()).fail is fail


async def test_deactivating_moves_waiting_runs_and_back(store: PostgresStore, url: str) -> None:
    plan = await waiting(store, 3)
    other = await waiting(store, 1, image="other:1")
    assert (await store.plans.set_active(plan, False)).active is False
    await store.plans.set_active(plan, False)
    statuses = {run: status for run, status in runs_in(url).items() if run[0] == plan}
    assert set(statuses.values()) == {"deactivated"}
    assert {one.plan_id for one in await store.admission.admit(MANY)} == {other}
    assert (await store.plans.set_active(plan, True)).active is True
    assert len(await store.admission.admit(MANY)) == 4
    events = fetch(
        url,
        "SELECT e.from_status, e.to_status, e.cause FROM run_event e JOIN run r USING (run_id)"
        " WHERE r.plan_id = %s ORDER BY event_id",
        plan,
    )
    assert [one["to_status"] for one in events] == [
        *["waiting"] * 3, *["deactivated"] * 3, *["waiting"] * 3,
    ]  # fmt: skip
    assert events[-1]["cause"] == "Plan activated"


async def test_runs_that_have_begun_go_on_under_an_inactive_plan(store: PostgresStore) -> None:
    plan = await waiting(store, 1)
    key = only(await admit_all(store))
    await store.execution.advance(key, S.READY, cause="x")
    await store.plans.set_active(plan, False)
    assert await store.execution.advance(key, S.STARTING, cause="x") is S.STARTING


async def test_an_admitted_run_that_is_deactivated_gets_a_new_execution(
    store: PostgresStore,
) -> None:
    plan = await waiting(store, 1)
    old = only(await admit_all(store))
    await store.plans.set_active(plan, False)
    with pytest.raises(Superseded):
        await store.execution.advance(old, S.READY, cause="x")
    assert await admit(store, 9) == []
    await store.plans.set_active(plan, True)
    new = only(await admit(store, 9))
    assert new == RunKey(old.run_id, 2)
    assert await store.execution.advance(new, S.READY, cause="x") is S.READY


async def test_built_in_and_unknown_plans_cannot_be_deactivated(store: PostgresStore) -> None:
    key, _ = await begin(store)
    uploaded = (await store.runs.get(key.run_id)).summary.plan.plan_id
    for plan in (uploaded, PlanId("00000000-0000-4000-8000-000000000000"), PlanId("x")):
        with pytest.raises(PlanNotFound):
            await store.plans.set_active(plan, False)


@asynccontextmanager
async def counted(store: PostgresStore, fallback: timedelta) -> AsyncIterator[list[int]]:
    """Counts the turns of `work` in the background."""
    turns = [0]

    async def follow() -> None:
        async for _ in store.projection.wake_ups(fallback=fallback):
            turns[0] += 1

    task = asyncio.create_task(follow())
    try:
        yield turns
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def grows(turns: list[int], beyond: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while turns[0] <= beyond:
            await asyncio.sleep(0.01)


@pytest.mark.patient
async def test_work_yields_at_once_and_on_notification(store: PostgresStore) -> None:
    async with counted(store, timedelta(hours=1)) as turns:
        await grows(turns, 1)  # at once, and when the listener has connected
        plan = await register(store, spec({"/a": "k:a"}))
        for change in (
            lambda: upload(store, "k:a"),
            lambda: drain(store),
            lambda: store.plans.set_active(plan, False),
            lambda: store.plans.set_active(plan, True),
        ):
            await asyncio.sleep(0.2)
            before = turns[0]
            await change()
            await grows(turns, before)


@pytest.mark.patient
async def test_work_falls_back_to_looking_by_itself(store: PostgresStore) -> None:
    turns = store.projection.wake_ups(fallback=timedelta(milliseconds=50))
    async with asyncio.timeout(PATIENCE):
        for _ in range(4):
            await anext(turns)
    await turns.aclose()


async def test_work_survives_a_lost_connection(store: PostgresStore, url: str) -> None:
    async with counted(store, timedelta(hours=1)) as turns:
        await grows(turns, 1)
        fetch(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%%'",
        )
        await grows(turns, 2)  # reconnected: something may have been missed
        await register(store, spec({"/a": "k:a"}))
        await grows(turns, 3)


@pytest.mark.patient
async def test_wait_final_returns_when_the_run_is_final(store: PostgresStore) -> None:
    key, _ = await begin(store)
    async with asyncio.timeout(PATIENCE):
        waiters = [
            asyncio.ensure_future(store.runs.wait_final(key.run_id, fallback=timedelta(hours=1)))
            for _ in range(5)
        ]
        await asyncio.sleep(0.3)
        assert not any(one.done() for one in waiters)
        await end(store, key)
        details = await asyncio.gather(*waiters)
    assert {one.summary.status for one in details} == {S.DONE}
    again = await store.runs.wait_final(key.run_id, fallback=timedelta(hours=1))
    assert again.summary.status is S.DONE


@pytest.mark.parametrize("run_id", ["00000000-0000-4000-8000-000000000000", "x", "\0"])
async def test_nobody_waits_for_a_run_that_is_not_there(store: PostgresStore, run_id: str) -> None:
    """An unknown id, or what can be none, is refused at once instead of waited for."""
    with pytest.raises(RunNotFound):
        await store.runs.wait_final(RunId(run_id), fallback=timedelta(hours=1))
