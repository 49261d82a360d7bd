"""Carrying out a Run: legal moves only, once, by the present generation."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from knit_workflows.domain.errors import HooksNotCalled, IllegalMove, RunNotFound, Superseded
from knit_workflows.domain.hooks import Hooks
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.plans.model import Image, NodeMode, NodeRule
from knit_workflows.domain.plans.options import PlanOptions, PodOptions
from knit_workflows.domain.ports import RunKey, Started, UsedResources
from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import Exit, PendingReason, RunStatus, WaitKind
from knit_workflows.domain.volumes import VolumeOptions
from knit_workflows.store import PostgresStore
from knit_workflows.store.runs import execution
from tests.store.build import (
    admit_all,
    begin,
    drain,
    end,
    fetch,
    millis,
    only,
    register,
    spec,
    upload,
)
from tests.waiting import PATIENCE

S = RunStatus


async def a_run(store: PostgresStore, **more: Any) -> RunKey:
    plan = spec({"/in": "type:a"}, {"/out/1": "type:b", "/out/2": ""}, log="type:log", **more)
    await register(store, plan)
    await upload(store, "type:a")
    await drain(store)
    (key,) = await admit_all(store)
    return key


async def test_an_order_says_all_that_is_needed(store: PostgresStore) -> None:
    rules = (NodeRule(NodeMode.MUST, "gpu", "yes"),)
    key = await a_run(
        store,
        entrypoint=("run",),
        args=("-x", "1"),
        on_node=rules,
        service_account="sa",
        options=PlanOptions(
            PodOptions(queue="q"), {"/out/2": VolumeOptions(size="1Gi"), "/log": VolumeOptions("s")}
        ),
    )
    order = await store.execution.spec(key)
    assert order.key == key
    assert order.status is S.WAITING
    assert order.image == Image("demo", "1")
    assert (order.entrypoint, order.args) == (("run",), ("-x", "1"))
    assert [one.path for one in order.inputs] == ["/in"]
    assert [one.path for one in order.outputs] == ["/out/1", "/out/2"]
    assert order.log is not None
    volumes = {*(one.volume for one in (*order.inputs, *order.outputs)), order.log}
    assert len(volumes) == 4
    assert {one.name for one in volumes} == {f"data-knitid-{one.knit_id}" for one in volumes}
    assert order.on_node == rules
    assert order.service_account == "sa"
    assert order.options == PodOptions(queue="q")
    made = [one.volume.options for one in order.outputs]
    assert made == [VolumeOptions(), VolumeOptions(size="1Gi")]
    assert order.log.options == VolumeOptions("s")
    assert order.inputs[0].volume.options == VolumeOptions()
    assert order.resources == {"cpu": "1", "memory": "1Gi"}
    assert (await store.runs.get(key.run_id)).summary.plan.plan_id == order.plan_id


async def test_an_order_has_the_digest_of_its_image(store: PostgresStore) -> None:
    order = await store.execution.spec(await a_run(store, image="demo:1@sha256:a"))
    assert order.image == Image("demo", "1", "sha256:a")


async def test_an_order_of_no_run_or_another_generation(store: PostgresStore) -> None:
    key = await a_run(store)
    with pytest.raises(RunNotFound):
        await store.execution.spec(RunKey(RunId(str(uuid4())), 1))
    with pytest.raises(RunNotFound):
        await store.execution.spec(RunKey(RunId("no id"), 1))
    with pytest.raises(Superseded):
        await store.execution.spec(RunKey(key.run_id, 2))


async def running(store: PostgresStore) -> RunKey:
    key = await a_run(store)
    for target in (S.READY, S.STARTING, S.RUNNING):
        await store.execution.advance(key, target, cause="test")
    return key


async def test_a_run_whose_pod_is_over_is_concluded_at_once(store: PostgresStore, url: str) -> None:
    """With all that the two moves record, one by one; a second call finds it so."""
    key = await running(store)
    ended = datetime(2026, 11, 1, tzinfo=UTC)
    for _ in range(2):
        concluded = await store.execution.conclude(
            key,
            S.COMPLETING,
            cause="ended",
            exit=Exit(0, "fine"),
            image_digest="sha256:1",
            notes=("a note",),
            timeline={Milestone.ENDED: ended},
        )
        assert concluded.status is S.DONE
        assert concluded.timing.generation == 1
    events = await store.runs.events(key.run_id)
    assert [one.to_status for one in events[-3:]] == [S.RUNNING, S.COMPLETING, S.DONE]
    assert (events[-2].cause, events[-1].cause) == ("ended", "run pod ended")
    assert events[-2].timeline == {Milestone.ENDED: ended}
    row = only(fetch(url, "SELECT * FROM run WHERE run_id = %s", key.run_id))
    assert (row["exit_message"], row["image_digest"], row["notes"]) == (
        "fine",
        "sha256:1",
        ["a note"],
    )
    assert len(fetch(url, "SELECT event_id FROM outbox WHERE kind = 'data_ready'")) == 3


async def test_what_is_prepared_for_a_launch_counts_once_and_not_for_long(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is told what was true a moment ago."""
    await register(store, spec({"/in": "type:a"}))
    for _ in range(2):
        await upload(store, "type:a")
    await drain(store)
    key, other = await admit_all(store)
    monkeypatch.setattr(execution, "_PREPARED_FOR", PATIENCE)
    await store.execution.prepare([key, other])
    for one in (key, other):
        await store.execution.advance(one, S.READY, cause="test")
    assert (await store.execution.spec(key)).status is S.READY
    assert (await store.execution.spec_to_launch(key)).status is S.WAITING
    assert (await store.execution.spec_to_launch(key)).status is S.READY
    monkeypatch.setattr(execution, "_PREPARED_FOR", 0.0)
    assert (await store.execution.spec_to_launch(other)).status is S.READY
    with pytest.raises(Superseded):
        await store.execution.spec_to_launch(RunKey(key.run_id, 2))


async def test_only_waiting_runs_are_prepared(store: PostgresStore) -> None:
    """Of any other its launch must know the present status, or might create a second pod."""
    key = await a_run(store)
    await store.execution.advance(key, S.READY, cause="test")
    await store.execution.prepare([key])
    await store.execution.advance(key, S.STARTING, cause="test")
    assert (await store.execution.spec_to_launch(key)).status is S.STARTING


@pytest.mark.parametrize("before", [(S.READY, S.STARTING), (S.READY, S.STARTING, S.RUNNING)])
async def test_the_start_of_a_run_is_recorded_with_its_end_unless_it_is_on_record(
    store: PostgresStore, before: tuple[RunStatus, ...]
) -> None:
    key = await a_run(store)
    for target in before:
        await store.execution.advance(key, target, cause="started")
    begun = {Milestone.STARTED: datetime(2026, 11, 1, tzinfo=UTC)}
    for _ in range(2):
        concluded = await store.execution.conclude(
            key, S.COMPLETING, cause="ended", running=Started("started", "sha256:1", begun)
        )
        assert concluded.status is S.DONE
    events = await store.runs.events(key.run_id)
    assert [one.to_status for one in events[-4:]] == [S.STARTING, S.RUNNING, S.COMPLETING, S.DONE]
    assert events[-3].cause == "started"
    assert events[-3].timeline == (begun if S.RUNNING not in before else {})


async def test_a_run_that_a_user_has_stopped_is_concluded_as_that(store: PostgresStore) -> None:
    key = await running(store)
    await store.execution.advance(key, S.ABORTING, cause="stopped", exit=Exit(253, "stopped"))
    concluded = await store.execution.conclude(key, S.COMPLETING, cause="ended", exit=Exit(0, ""))
    assert concluded.status is S.FAILED
    assert (await store.runs.get(key.run_id)).summary.exit == Exit(253, "stopped")


async def test_no_run_is_concluded_over_hooks_too_early_or_in_another_generation(
    store: PostgresStore,
) -> None:
    conclude, key = store.execution.conclude, await running(store)
    with pytest.raises(RunNotFound):
        await conclude(RunKey(RunId(str(uuid4())), 1), S.COMPLETING, cause="ended")
    with pytest.raises(Superseded):
        await conclude(RunKey(key.run_id, 2), S.COMPLETING, cause="ended")
    await store.hooks.configure(Hooks(before=("http://127.0.0.1:1/",)))
    with pytest.raises(HooksNotCalled):
        await conclude(key, S.COMPLETING, cause="ended")
    assert (await store.execution.spec(key)).status is S.RUNNING


async def test_moves_are_recorded_with_exit_digest_and_resources(
    store: PostgresStore, url: str
) -> None:
    key = await a_run(store)
    assert await store.execution.advance(key, S.READY, cause="volumes") is S.READY
    used = UsedResources({"cpu": "2"}, "sa")
    assert await store.execution.advance(key, S.STARTING, cause="launch", used=used) is S.STARTING
    running = await store.execution.advance(key, S.RUNNING, cause="seen", image_digest="sha256:1")
    assert running is S.RUNNING
    done = await store.execution.advance(key, S.COMPLETING, cause="ended", exit=Exit(0, "fine"))
    assert done is S.COMPLETING
    row = only(fetch(url, "SELECT * FROM run WHERE run_id = %s", key.run_id))
    assert row["used_resources"] == {"cpu": "2"}
    assert row["used_service_account"] == "sa"
    assert row["image_digest"] == "sha256:1"
    assert (await store.runs.get(key.run_id)).summary.exit == Exit(0, "fine")
    events = await store.runs.events(key.run_id)
    assert [(one.from_status, one.to_status, one.cause) for one in events] == [
        (None, S.WAITING, "projected"),
        (S.WAITING, S.READY, "volumes"),
        (S.READY, S.STARTING, "launch"),
        (S.STARTING, S.RUNNING, "seen"),
        (S.RUNNING, S.COMPLETING, "ended"),
    ]
    assert events[-1].exit == Exit(0, "fine")
    assert events[1].exit is None
    assert all(one.generation == 1 and millis(one.at) for one in events)
    assert sorted(one.at for one in events) == [one.at for one in events]


async def test_the_history_keeps_what_was_known_of_the_pod(store: PostgresStore) -> None:
    key = await a_run(store)
    scheduled, ended = (
        datetime(2026, 1, 2, 3, 4, 5, 67000, UTC),
        datetime(2026, 1, 2, 4, tzinfo=UTC),
    )
    await store.execution.advance(key, S.READY, cause="")
    await store.execution.advance(key, S.STARTING, cause="")
    known = {Milestone.SCHEDULED: scheduled}
    await store.execution.advance(key, S.RUNNING, cause="", timeline=known)
    known = {Milestone.ENDED: ended}
    await store.execution.advance(key, S.COMPLETING, cause="", timeline=known)
    events = await store.runs.events(key.run_id)
    _, ready, starting, running, completing = (event.timeline for event in events)
    assert [*ready] == [Milestone.ADMITTED]
    assert events[0].at <= ready[Milestone.ADMITTED] <= events[1].at
    assert starting == {}
    assert running == {Milestone.SCHEDULED: scheduled}
    assert completing == {Milestone.ENDED: ended}
    await end(store, key)
    spent = await store.execution.timing(key)
    assert spent.status is S.DONE
    assert sum((one.duration for one in spent.phases), timedelta()) == spent.total
    with pytest.raises(Superseded):
        await store.execution.timing(replace(key, generation=2))


async def test_the_same_or_an_illegal_move_changes_nothing(store: PostgresStore) -> None:
    key = await a_run(store)
    await store.execution.advance(key, S.READY, cause="x")
    before = await store.runs.get(key.run_id)
    assert await store.execution.advance(key, S.READY, cause="again", exit=Exit(1, "no")) is S.READY
    assert (
        await store.execution.advance(key, S.WAITING, cause="back", exit=Exit(1, "no")) is S.READY
    )
    assert await store.runs.get(key.run_id) == before
    assert len(await store.runs.events(key.run_id)) == 2


async def test_a_stopped_run_answers_its_status(store: PostgresStore) -> None:
    key = await a_run(store)
    await store.runs.stop(key.run_id, fail=True)
    assert await store.execution.advance(key, S.READY, cause="late") is S.ABORTING
    assert (await store.runs.get(key.run_id)).summary.exit == Exit(253, "aborted by user")
    assert (
        await store.execution.advance(key, S.ABORTING, cause="x", exit=Exit(1, "no")) is S.ABORTING
    )
    assert (await store.runs.get(key.run_id)).summary.exit == Exit(253, "aborted by user")


async def test_advance_is_not_for_final_statuses(store: PostgresStore) -> None:
    key = await a_run(store)
    for target in (S.DONE, S.FAILED, S.INVALIDATED):
        with pytest.raises(ValueError, match="final"):
            await store.execution.advance(key, target, cause="x")


@pytest.mark.parametrize("generation", [0, 2])
async def test_another_generation_is_superseded(store: PostgresStore, generation: int) -> None:
    key = await a_run(store)
    other = RunKey(key.run_id, generation)
    with pytest.raises(Superseded):
        await store.execution.advance(other, S.READY, cause="x")
    with pytest.raises(Superseded):
        await store.execution.finalize(other, cause="x")
    assert (await store.runs.get(key.run_id)).summary.status is S.WAITING


@pytest.mark.patient
async def test_of_moves_at_once_one_wins_and_all_learn_the_status(store: PostgresStore) -> None:
    for _ in range(20):
        key, _ = await begin(store)
        answers = await asyncio.gather(
            *(
                store.execution.advance(key, S.COMPLETING, cause="a", exit=Exit(0, ""))
                for _ in range(4)
            ),
            *(
                store.execution.advance(key, S.ABORTING, cause="b", exit=Exit(1, ""))
                for _ in range(4)
            ),
        )
        assert len(set(answers)) == 1
        events = await store.runs.events(key.run_id)
        assert len(events) == 2
        assert events[-1].to_status is answers[0]


async def test_done_gives_every_data_its_time_and_an_event(store: PostgresStore, url: str) -> None:
    key = await a_run(store)
    await store.execution.advance(key, S.READY, cause="x")
    await store.execution.advance(key, S.COMPLETING, cause="x")
    assert await store.execution.finalize(key, cause="end") is S.DONE
    run = await store.runs.get(key.run_id)
    rows = fetch(url, "SELECT knit_id::text, timestamp FROM data WHERE run_id = %s", key.run_id)
    assert len(rows) == 3
    assert {row["timestamp"] for row in rows} == {run.summary.updated_at}
    assert millis(run.summary.updated_at)
    events = fetch(url, "SELECT kind, subject::text FROM outbox ORDER BY event_id")
    assert [one["kind"] for one in events] == ["data_ready"] * 3
    assert {one["subject"] for one in events} == {row["knit_id"] for row in rows}
    assert (await store.runs.events(key.run_id))[-1].to_status is S.DONE


async def test_failed_gives_data_their_time_and_no_event(store: PostgresStore, url: str) -> None:
    key = await a_run(store)
    assert await end(store, key, fail=True) is S.FAILED
    rows = fetch(url, "SELECT timestamp FROM data WHERE run_id = %s", key.run_id)
    assert all(row["timestamp"] is not None for row in rows)
    assert fetch(url, "SELECT * FROM outbox") == []


async def test_finalizing_again_or_at_once_changes_nothing(store: PostgresStore, url: str) -> None:
    key = await a_run(store)
    await store.execution.advance(key, S.READY, cause="x")
    await store.execution.advance(key, S.COMPLETING, cause="x")
    answers = await asyncio.gather(*(store.execution.finalize(key, cause="x") for _ in range(6)))
    assert set(answers) == {S.DONE}
    before = await store.runs.get(key.run_id)
    assert await store.execution.finalize(key, cause="again") is S.DONE
    assert await store.runs.get(key.run_id) == before
    assert len(fetch(url, "SELECT * FROM outbox")) == 3
    finals = [one for one in await store.runs.events(key.run_id) if one.to_status is S.DONE]
    assert len(finals) == 1


async def test_a_run_that_has_not_ended_cannot_be_finalized(store: PostgresStore) -> None:
    key = await a_run(store)
    with pytest.raises(IllegalMove):
        await store.execution.finalize(key, cause="x")
    with pytest.raises(RunNotFound):
        await store.execution.finalize(RunKey(RunId(str(uuid4())), 1), cause="x")


# --- what keeps it from starting ----------------------------------------------------------------

REFUSED = PendingReason(WaitKind.TRANSIENT, "RegistryUnreachable", "connection refused")


async def a_starting_run(store: PostgresStore) -> RunKey:
    key = await a_run(store)
    await store.execution.advance(key, S.READY, cause="x")
    await store.execution.advance(key, S.STARTING, cause="x")
    return key


async def reasons(store: PostgresStore, key: RunKey) -> list[tuple[RunStatus, str]]:
    """What the history says of a Run that stays where it is."""
    events = await store.runs.events(key.run_id)
    return [(one.to_status, one.cause) for one in events if one.from_status is one.to_status]


@pytest.mark.patient
async def test_what_holds_a_run_up_is_written_once_per_reason(
    store: PostgresStore, url: str
) -> None:
    """Another message is none; another kind begins anew, another word of one kind does not."""
    key = await a_starting_run(store)

    async def since() -> Any:
        waiting = (await store.runs.get(key.run_id)).waiting
        assert waiting is not None
        return waiting.since

    assert await store.execution.hold_up(key, REFUSED, at=S.STARTING)
    begun, changed = await since(), (await store.runs.get(key.run_id)).summary.updated_at
    assert not await store.execution.hold_up(
        key, replace(REFUSED, message="for 2 s"), at=S.STARTING
    )
    assert await store.execution.hold_up(key, replace(REFUSED, code="RegistryBusy"), at=S.STARTING)
    assert await since() == begun
    await asyncio.sleep(0.01)
    missing = PendingReason(WaitKind.IMAGE, "ImageNotFound", "none")
    assert await store.execution.hold_up(key, missing, at=S.STARTING)
    assert await since() > begun
    assert await reasons(store, key) == [
        (S.STARTING, "[RegistryUnreachable] connection refused"),
        (S.STARTING, "[RegistryBusy] connection refused"),
        (S.STARTING, "[ImageNotFound] none"),
    ]
    # Lists are by the last change of a status, which this is not.
    assert (await store.runs.get(key.run_id)).summary.updated_at == changed


async def test_another_deadline_is_no_other_reason(store: PostgresStore) -> None:
    """A watch that begins anew counts anew: shown, and not one more line of the history."""
    key = await a_starting_run(store)
    first, second = (datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (1, 2))
    assert await store.execution.hold_up(key, replace(REFUSED, until=first), at=S.STARTING)
    assert not await store.execution.hold_up(key, replace(REFUSED, until=second), at=S.STARTING)
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert waiting.until == second
    assert len(await reasons(store, key)) == 1


async def test_nothing_holds_a_run_up_any_more(store: PostgresStore) -> None:
    """Told once, and kept out of the history."""
    key = await a_starting_run(store)
    assert not await store.execution.hold_up(key, None, at=S.STARTING)
    await store.execution.hold_up(key, REFUSED, at=S.STARTING)
    assert await store.execution.hold_up(key, None, at=S.STARTING)
    assert not await store.execution.hold_up(key, None, at=S.STARTING)
    assert (await store.runs.get(key.run_id)).waiting is None
    assert len(await reasons(store, key)) == 1


async def test_two_reasons_that_take_turns_do_not_fill_the_history(store: PostgresStore) -> None:
    """The row has the last one all the same."""
    key = await a_starting_run(store)
    turns = [replace(REFUSED, code=code) for _ in range(30) for code in ("Busy", "Back")]
    news = [await store.execution.hold_up(key, one, at=S.STARTING) for one in turns]
    assert news == [True] * 20 + [False] * 40
    assert len(await reasons(store, key)) == 20
    waiting = (await store.runs.get(key.run_id)).waiting
    assert waiting is not None
    assert waiting.code == "Back"


async def test_only_what_has_not_gone_on_is_pending(store: PostgresStore, url: str) -> None:
    """A late word of an older step changes nothing; a stop or a retry clears what was said."""
    key = await a_starting_run(store)
    assert not await store.execution.hold_up(key, REFUSED, at=S.READY)
    with pytest.raises(Superseded):
        await store.execution.hold_up(RunKey(key.run_id, 2), REFUSED, at=S.STARTING)
    with pytest.raises(RunNotFound):
        await store.execution.hold_up(RunKey(RunId(str(uuid4())), 1), REFUSED, at=S.STARTING)
    assert await store.execution.hold_up(key, REFUSED, at=S.STARTING)
    await store.runs.stop(key.run_id, fail=True)
    assert not await store.execution.hold_up(key, REFUSED, at=S.STARTING)
    assert only(fetch(url, "SELECT holdup FROM run WHERE run_id = %s", key.run_id)) == {
        "holdup": None
    }
