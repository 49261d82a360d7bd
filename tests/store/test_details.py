"""What a Run's details say beyond its assignments: why it waits, and what it used."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.plans.options import PlanOptions, PodOptions, Toleration
from knit_workflows.domain.ports import AdmissionLimits, RunKey, UsedResources
from knit_workflows.domain.runs.run import (
    Exit,
    PendingReason,
    RunQuery,
    RunStatus,
    Used,
    Waiting,
    WaitKind,
)
from knit_workflows.domain.volumes import VolumeOptions
from knit_workflows.store import PostgresStore
from tests.store.build import QUEUED_AT, begin, fetch, only, queue_up, register, spec

S = RunStatus
WAITING = RunQuery(statuses=frozenset({S.WAITING}))


async def a_plan(store: PostgresStore, name: str = "a") -> PlanId:
    """Makes a Plan that nothing fits."""
    return await register(store, spec({"/a": f"k:{name}"}, image=f"{name}:1"))


async def why(store: PostgresStore, plan_id: str) -> list[Waiting | None]:
    """Gives why the waiting Runs of a Plan wait, those first that are oldest."""
    query = RunQuery(plan_ids=frozenset({plan_id}), statuses=frozenset({S.WAITING, S.DEACTIVATED}))
    found = await store.runs.find(query)
    return [one.waiting for one in sorted(found, key=lambda one: -int(one.priority))]


def places(reasons: list[Waiting | None]) -> list[int | None]:
    return [None if one is None else one.position for one in reasons]


def reason_of(reasons: list[Waiting | None]) -> str:
    """Gives what all of them say after the place."""
    return only({one.reason.split(" in queue, ")[1] for one in reasons if one is not None})


async def admit(store: PostgresStore, total: int, per_plan: int | None = None) -> list[RunKey]:
    return [one.key for one in await store.admission.admit(AdmissionLimits(total, per_plan))]


async def test_a_run_that_waits_for_a_place_says_which_is_its_own(
    store: PostgresStore, url: str
) -> None:
    """`3rd in queue, limit of 2 Runs under way reached`; whatever is admitted makes it earlier."""
    plan = await a_plan(store)
    for priority in range(24, 0, -1):
        queue_up(url, plan, [1], priority=priority)
    assert len(await admit(store, 2)) == 2
    reasons = (await why(store, plan))[2:]
    assert places(reasons) == list(range(1, 23))
    assert {one.reason for one in reasons if one is not None} == {
        f"{place} in queue, limit of 2 Runs under way reached"
        for place in ("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 21)), "21st", "22nd")
    }
    await admit(store, 3)
    assert places((await why(store, plan))[3:]) == list(range(1, 22))


@pytest.mark.patient
async def test_the_place_is_that_in_the_order_of_admission(store: PostgresStore, url: str) -> None:
    """Runs are admitted in the order of their places, across Plans and priorities."""
    for number, (count, priority, under_way) in enumerate(
        [(5, 0, 2), (4, 0, 0), (1, 3, 0), (3, -1, 1), (9, 0, 1)]
    ):
        plan = await a_plan(store, f"p{number}")
        ages = [number + 3 * n for n in range(count)]
        queue_up(url, plan, ages, priority=priority, admitted=under_way)
    under_way = 4
    queue = {one.summary.run_id: one.waiting for one in await store.runs.find(WAITING)}
    found = {one.position: run_id for run_id, one in queue.items() if one is not None}
    assert sorted(found) == list(range(1, len(queue) + 1))
    for place in sorted(found):
        [key] = await admit(store, under_way + place)
        assert key.run_id == found[place]
        await store.admission.started([key])


async def test_a_plan_at_its_own_limit_says_so(store: PostgresStore, url: str) -> None:
    """The narrower limit is the one named, with a single Run in the singular."""
    one, two = await a_plan(store, "one"), await a_plan(store, "two")
    queue_up(url, one, range(3))
    queue_up(url, two, range(5))
    assert len(await admit(store, 2, 1)) == 2
    waiting = [why for why in await why(store, one) if why and why.position]
    assert reason_of(waiting) == "limit of 1 Run of this Plan under way reached"
    assert len(await admit(store, 6, 4)) == 6
    assert reason_of([one for one in await why(store, two) if one and one.position]) == (
        "limit of 6 Runs under way reached"
    )


@pytest.mark.patient
async def test_far_behind_in_the_queue_there_is_no_place(store: PostgresStore, url: str) -> None:
    """The queue is looked through up to a bound; what it says behind that is still true."""
    plan, other = await a_plan(store), await a_plan(store, "other")
    queue_up(url, plan, range(1, 1300))
    queue_up(url, other, [0])
    await admit(store, 1)
    await store.admission.started(await admit(store, 1))
    found = places(await why(store, plan))
    assert sorted(place for place in found if place is not None) == list(range(2, 1001))
    assert found.count(None) == 300
    last = only({one for one in await why(store, plan) if one and one.reason.startswith("behind")})
    assert last.reason == "behind the first 1,000 in queue, limit of 1 Run under way reached"
    assert only(await why(store, other)).position == 1


async def test_before_and_between_admissions(store: PostgresStore, url: str) -> None:
    """A queue that nobody works off says what to look at."""
    plan = await a_plan(store)
    queue_up(url, plan, [1])
    assert only(await why(store, plan)).reason == (
        "1st in queue, no worker has admitted any Run yet: start one with the role engine"
    )
    key = only(await admit(store, 1))
    queue_up(url, plan, [0])
    assert {one.position for one in await why(store, plan) if one} == {None, 1}
    await admit(store, 2)
    queue_up(url, plan, [0])
    fetch(url, "UPDATE run SET status = 'failed' WHERE run_id = %s", key.run_id)
    assert [one.reason for one in await why(store, plan) if one and one.position] == [
        "1st in queue, a place is free: a worker of the role engine admits it next"
    ]


async def test_an_admitted_run_waits_for_its_workflow(store: PostgresStore, url: str) -> None:
    """Out of the queue, a Run waits only for what is being done for it."""
    plan = await a_plan(store)
    queue_up(url, plan, [1])
    key = only(await admit(store, 1))
    assert (await store.runs.get(key.run_id)).waiting == Waiting(
        None, "its workflow is being started", WaitKind.WORKER
    )
    await store.admission.started([key])
    assert (await store.runs.get(key.run_id)).waiting == Waiting(
        None, "its workflow has been started, it gets ready next", WaitKind.WORKER
    )
    await store.execution.advance(key, S.READY, cause="test")
    assert (await store.runs.get(key.run_id)).waiting is None


async def test_a_deactivated_run_waits_for_its_plan(store: PostgresStore, url: str) -> None:
    """It has no place in the queue, and takes none from others."""
    plan, other = await a_plan(store), await a_plan(store, "other")
    queue_up(url, plan, [5])
    queue_up(url, other, [1])
    await store.plans.set_active(plan, False)
    assert await why(store, plan) == [Waiting(None, "its Plan is not active", WaitKind.INACTIVE)]
    assert only(await why(store, other)).position == 1


async def launched(store: PostgresStore, url: str, upto: RunStatus = S.READY) -> RunKey:
    """Makes a Run that is on its way."""
    queue_up(url, await a_plan(store), [1])
    key = only(await admit(store, 1))
    await store.admission.started([key])
    for status in (S.READY, S.STARTING, S.RUNNING):
        await store.execution.advance(key, status, cause="test")
        if status is upto:
            break
    return key


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (S.WAITING, "no worker has taken it up"),
        (S.READY, "no worker has launched it yet"),
        (S.STARTING, "no worker says what its pod does"),
    ],
)
async def test_a_run_that_no_worker_looks_after_says_so(
    store: PostgresStore, url: str, status: RunStatus, words: str
) -> None:
    """By its age: what nobody says anything of, nobody works on."""
    key = await launched(store, url)
    fetch(url, "UPDATE run SET status = %s WHERE run_id = %s", status.value, key.run_id)
    fetch(
        url,
        "UPDATE run SET updated_at = updated_at - interval '2 minutes',"
        " workflow_started_at = workflow_started_at - interval '2 minutes'",
    )
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert waiting.reason.startswith(words)
    assert (waiting.kind, waiting.position) == (WaitKind.WORKER, None)
    assert waiting.since is not None
    assert "worker" in waiting.outlook


@pytest.mark.parametrize("kind", list(WaitKind))
async def test_what_holds_a_run_up_is_told(store: PostgresStore, url: str, kind: WaitKind) -> None:
    """Whatever a back-end says, with since when and until when, in details and lists alike."""
    key = await launched(store, url, S.STARTING)
    until = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    held = PendingReason(kind, "ErrImagePull", "no\n such \0 image", until)
    assert await store.execution.hold_up(key, held, at=S.STARTING)
    run = await store.runs.get(key.run_id)
    assert run.waiting is not None
    assert run.waiting.since is not None
    assert dataclasses.replace(run.waiting, since=None, outlook="") == Waiting(
        None, "no such image", kind, "ErrImagePull", until=until
    )
    assert run in await store.runs.find(RunQuery(statuses=frozenset({S.STARTING})))
    await store.execution.advance(key, S.RUNNING, cause="test")
    assert (await store.runs.get(key.run_id)).waiting is None


async def test_what_a_newer_worker_reports_is_told_in_its_words(
    store: PostgresStore, url: str
) -> None:
    """While workers are upgraded before the API; no list fails because of one such Run."""
    key = await launched(store, url, S.STARTING)
    held = PendingReason(WaitKind.REFUSED, "Melted", "the node has melted")
    assert await store.execution.hold_up(key, held, at=S.STARTING)
    fetch(
        url, """UPDATE run SET holdup = holdup || '{"kind": "melted"}' WHERE holdup IS NOT NULL"""
    )
    fetch(url, """UPDATE run_event SET timeline = '{"melted": "2026-01-02T03:04:05+00:00"}'""")
    [run] = await store.runs.find(RunQuery(statuses=frozenset({S.STARTING})))
    assert run.waiting is not None
    assert (run.waiting.kind, run.waiting.code) == (WaitKind.OTHER, "Melted")
    assert run.waiting.reason == "the node has melted"
    assert "upgrade the API" in run.waiting.outlook
    assert all(not one.timeline for one in await store.runs.events(key.run_id))


@pytest.mark.parametrize("fail", [False, True])
async def test_what_keeps_a_stopped_run_from_ending_is_told(
    store: PostgresStore, url: str, fail: bool
) -> None:
    """Until it has ended."""
    key = await launched(store, url, S.RUNNING)
    await store.runs.stop(key.run_id, fail=fail)
    held = PendingReason(WaitKind.BACKEND, "PodNotGone", "it is still there")
    assert await store.execution.hold_up(key, held, at=S.ABORTING if fail else S.COMPLETING)
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert (waiting.code, waiting.reason) == ("PodNotGone", "it is still there")
    await store.execution.finalize(key, cause="test")
    assert (await store.runs.get(key.run_id)).waiting is None


@pytest.mark.parametrize("status", [one for one in S if one not in (S.WAITING, S.DEACTIVATED)])
async def test_other_runs_do_not_wait(store: PostgresStore, url: str, status: RunStatus) -> None:
    """Only a Run that has not begun waits; uploads begin at once."""
    key, _ = await begin(store)
    fetch(url, "UPDATE run SET status = %s WHERE run_id = %s", status.value, key.run_id)
    assert (await store.runs.get(key.run_id)).waiting is None


async def test_what_a_run_used_is_what_its_pod_got(store: PostgresStore, url: str) -> None:
    """Nothing before the pod runs; then what was recorded, whatever the Plan says by then."""
    plan = await a_plan(store)
    queue_up(url, plan, [1], priority=4)
    key = only(await admit(store, 1))
    await store.admission.started([key])
    before = await store.runs.get(key.run_id)
    assert (before.used, before.priority, before.generation) == (None, 4, 1)
    made = PlanOptions(volumes={"/out": VolumeOptions("fast", "ReadWriteOnce", "5Gi")})
    await store.execution.advance(key, S.READY, cause="test", options=made)
    used = UsedResources({"cpu": "500m", "memory": "1Gi"}, "trainer")
    pod = PlanOptions(PodOptions(labels={"team": "x"}, tolerations=(Toleration("gpu"),)))
    await store.execution.advance(key, S.STARTING, cause="test", used=used, options=pod)
    launched = Used({"cpu": "500m", "memory": "1Gi"}, "trainer", None)
    assert (await store.runs.get(key.run_id)).used is None
    fetch(url, "UPDATE plan SET resources = '{}', service_account = NULL")
    await store.execution.advance(key, S.RUNNING, cause="test", image_digest="sha256:abc")
    await store.execution.advance(key, S.COMPLETING, cause="test", exit=Exit(0, ""))
    await store.execution.finalize(key, cause="test")
    done = await store.runs.get(key.run_id)
    both = PlanOptions(pod.pod, made.volumes)
    assert done.used == Used(launched.resources, "trainer", "sha256:abc", both)
    assert only(await store.runs.find(RunQuery(plan_ids=frozenset({plan})))) == done
    first = [Used({}, None, None, made), dataclasses.replace(launched, options=pod)]
    assert [one.used for one in await store.runs.events(key.run_id) if one.used] == first
    await store.runs.retry(key.run_id)
    await admit(store, 1)
    key = RunKey(key.run_id, 2)
    await store.execution.advance(key, S.READY, cause="test")
    await store.execution.advance(key, S.STARTING, cause="test", used=UsedResources({}, None))
    await store.execution.advance(key, S.RUNNING, cause="test")
    assert (await store.runs.get(key.run_id)).used == Used({}, None, None)
    told = [one.used for one in await store.runs.events(key.run_id) if one.used]
    assert told == [*first, Used({}, None, None)], "what an earlier launch had is not forgotten"


async def test_what_is_noted_of_outputs_stays_until_they_are_discarded(
    store: PostgresStore, url: str
) -> None:
    """With the end, whatever comes after it; a retry discards the outputs, and what was noted."""
    plan = await a_plan(store)
    queue_up(url, plan, [1])
    key = only(await admit(store, 1))
    await store.admission.started([key])
    notes = ("output /out: 1 socket is not kept: worker.sock",)
    for target in (S.READY, S.STARTING, S.RUNNING):
        await store.execution.advance(key, target, cause="test")
    await store.execution.advance(key, S.COMPLETING, cause="test", exit=Exit(0, ""), notes=notes)
    # Again, as a worker does that follows on a killed one: the end counts that came first.
    await store.execution.advance(
        key, S.COMPLETING, cause="test", exit=Exit(0, ""), notes=("other",)
    )
    await store.execution.finalize(key, cause="test")
    assert (await store.runs.get(key.run_id)).notes == notes
    assert (await store.runs.retry(key.run_id)).notes == ()


async def test_a_page_of_runs_mixes_all_of_them(store: PostgresStore, url: str) -> None:
    """Each Run of a list has its own reason; the window by time still holds."""
    plan = await a_plan(store)
    queue_up(url, plan, range(5), admitted=2)
    await admit(store, 3)
    since = RunQuery(plan_ids=frozenset({plan}), since=QUEUED_AT - timedelta(seconds=1))
    reasons = [one.waiting for one in await store.runs.find(since)]
    assert len(reasons) == 5
    assert sorted(one.position for one in reasons if one and one.position) == [1, 2]
    assert reasons.count(Waiting(None, "its workflow is being started", WaitKind.WORKER)) == 1
    assert reasons.count(None) == 2
