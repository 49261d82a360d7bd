"""`knit.Run` and `knit.Projector` on real servers: what a Run does, however it is disturbed."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus

from knit_workflows import names
from knit_workflows.activities.run_starter import start_projector
from knit_workflows.activities.runs import pending_reasons
from knit_workflows.activities.runs import run as run_activities
from knit_workflows.compute.base import Launch, Observation, RunPod, StartFailure, StartFailureKind
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    IllegalMove,
    StorageFull,
)
from knit_workflows.domain.runs.run import (
    STUCK_CODE,
    SUCCEEDED,
    Exit,
    RunDetail,
    RunQuery,
    RunStatus,
    WaitKind,
)
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume, VolumeOptions
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import workers
from tests.waiting import PATIENCE

TRAIN = {
    "image": "registry.example/train:1",
    "inputs": [{"path": "/in/data", "tags": ["type:dataset"]}],
    "outputs": [{"path": "/out/model", "tags": ["type:model"]}],
    "log": {"tags": ["type:log"]},
}
EVALUATE = {
    "image": "registry.example/evaluate:1",
    "inputs": [{"path": "/in/model", "tags": ["type:model"]}],
    "outputs": [{"path": "/out/metrics", "tags": ["type:metrics"]}],
}


@pytest.fixture(autouse=True)
def every_signal_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Web UI says may be lost when Temporal is slow to take it; here it never is."""
    monkeypatch.setattr(pending_reasons, "SIGNAL_TIMEOUT", timedelta(seconds=PATIENCE))


async def _statuses(knit: KnitEnvironment, run: RunDetail) -> list[str]:
    events = await knit.store.runs.events(run.summary.run_id)
    return [event.to_status.value for event in events]


async def until_status(knit: KnitEnvironment, run_id: str, status: RunStatus) -> RunDetail:
    async with asyncio.timeout(PATIENCE):
        while True:
            run = await knit.store.runs.get(run_id)  # type: ignore[arg-type]
            if run.summary.status is status:
                return run
            await asyncio.sleep(0.01)


async def only_run(knit: KnitEnvironment, plan_id: str) -> RunDetail:
    async with asyncio.timeout(PATIENCE):
        while True:
            runs = await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
            if runs:
                return runs[0]
            await asyncio.sleep(0.01)


async def test_a_chain_runs_by_itself(postgres: EmbeddedPostgres) -> None:
    """One push makes the first Run, whose output makes the second; every status is recorded."""
    async with knit_environment(postgres=postgres) as knit:
        train = await knit.apply(TRAIN)
        evaluate = await knit.apply(EVALUATE)
        await knit.push({"type": "dataset"})
        [last] = await knit.runs_of(evaluate.summary.plan_id, 1)
        [first] = await knit.runs_of(train.summary.plan_id, 1)
        assert last.summary.status is RunStatus.DONE
        assert last.inputs[0].knit_id == first.outputs[0].knit_id
        passed = await _statuses(knit, first)
        # A container that ends at once may never be seen running.
        assert [status for status in passed if status != "running"] == [
            "waiting",
            "ready",
            "starting",
            "completing",
            "done",
        ]


@pytest.mark.parametrize(
    ("lasts", "wait", "activities", "events"),
    [
        (timedelta(), timedelta(seconds=5), 0, 8),
        (timedelta(), timedelta(seconds=PATIENCE), 1, 12),
        (timedelta(seconds=1), timedelta(seconds=0.1), 1, 18),
    ],
)
async def test_a_run_keeps_to_its_budget(
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    lasts: timedelta,
    wait: timedelta,
    activities: int,
    events: int,
) -> None:
    """A short Run costs Temporal no activity, a longer one one.

    One whose launch may take long, since it stays for long, has an activity for that too.
    """
    # Neither a step that is about to last too long nor a Run that goes on for long adds events.
    times = {"short_run_wait": wait, "step_timeout": timedelta(seconds=30)}
    engine = QUICK.model_copy(update=times)
    monkeypatch.setattr(run_activities, "SIGNAL_AFTER", timedelta(seconds=PATIENCE))

    async def behave(_: RunPod) -> Exit:
        await asyncio.sleep(lasts.total_seconds())
        return SUCCEEDED

    async with knit_environment(
        postgres=postgres, backend=MemoryBackend(behave), engine=engine
    ) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.result()
        history = (await handle.fetch_history()).events
        kinds = Counter(event.event_type for event in history)
        assert kinds[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED] == activities
        assert len(history) <= events


async def test_a_run_waits_for_room(postgres: EmbeddedPostgres) -> None:
    """It says so; it goes on by itself when there is some."""
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "other"})
        backend.storage_full_reason = "the disk has 3 MiB left"
        [data] = await knit.data_with({"type": "other"})
        await knit.store.data.change_tags(
            data.knit_id, TagChange(add=frozenset({Tag("type", "dataset")}))
        )
        run = await only_run(knit, plan.summary.plan_id)
        async with asyncio.timeout(PATIENCE):
            while run.waiting is None or "3 MiB" not in run.waiting.reason:
                await asyncio.sleep(0.02)
                run = await knit.store.runs.get(run.summary.run_id)
        assert run.waiting.reason == "1st in queue, the disk has 3 MiB left"
        backend.storage_full_reason = ""
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


@pytest.mark.parametrize("wait", [timedelta(), timedelta(minutes=1)])
async def test_what_cannot_be_kept_is_told_when_the_run_ends(
    postgres: EmbeddedPostgres, wait: timedelta
) -> None:
    """In its history, with the Run, and in Temporal's Web UI; whoever saw its end."""
    engine = QUICK.model_copy(update={"short_run_wait": wait})

    def behave(pod: RunPod) -> Exit:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(backend.folder(pod.outputs[0].volume) / "worker.sock"))
        return SUCCEEDED

    backend = MemoryBackend(behave)
    note = "output /out/model: 1 socket is not kept: worker.sock"
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        assert (run.summary.status, run.notes) == (RunStatus.DONE, (note,))
        events = await knit.store.runs.events(run.summary.run_id)
        assert [e.cause for e in events if e.to_status is RunStatus.COMPLETING] == [
            f"run pod ended; {note}"
        ]
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.result()
        metadata = await handle.query("__temporal_workflow_metadata")
        assert f"\n\n{note}\n\n* queue: " in metadata.current_details


async def test_a_pod_is_released_by_the_attempt_after_the_commit(
    postgres: EmbeddedPostgres,
) -> None:
    """The launch that saw the Run through failed between its lineage and the release of its pod."""

    class Away(MemoryBackend):
        gone = True

        async def release(self, pod_name: str) -> None:
            if self.gone:
                self.gone = False
                raise BackendUnavailable("no container engine answers")
            await super().release(pod_name)

    engine = QUICK.model_copy(update={"short_run_wait": timedelta(minutes=1)})
    backend = Away()
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.result()
        assert not backend.gone
        assert await backend.run_pods() == []


async def test_the_web_ui_tells_the_story(postgres: EmbeddedPostgres) -> None:
    """A Run's workflow has a summary, details, search attributes, and a summary per activity."""
    async with knit_environment(postgres=postgres) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.result()
        description = await handle.describe()
        assert "registry.example/train:1" in (await description.static_summary() or "")
        assert run.summary.run_id in (await description.static_details() or "")
        values = {pair.key.name: pair.value for pair in description.typed_search_attributes}
        assert values[names.ATTRIBUTE_STATUS] == "done"
        assert values[names.ATTRIBUTE_PLAN_ID] == plan.summary.plan_id
        for event in (await handle.fetch_history()).events:
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                assert event.user_metadata.summary.data


async def test_the_web_ui_shows_a_long_run_as_running(postgres: EmbeddedPostgres) -> None:
    """The watch tells the workflow of a container that has been running for a while."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        async with asyncio.timeout(PATIENCE):
            while await handle.query("status") != "running":
                await asyncio.sleep(0.1)
        backend.finish(names.run_pod(run.summary.run_id, 1))
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


@pytest.mark.parametrize("code", [3, 137])
async def test_a_failing_container_fails_its_run(postgres: EmbeddedPostgres, code: int) -> None:
    """Its code and reason are kept, its Data never match anything."""

    def fail(pod: RunPod) -> Exit:
        return Exit(code, "(container main) Error")

    async with knit_environment(postgres=postgres, backend=MemoryBackend(fail)) as knit:
        plan = await knit.apply(TRAIN)
        evaluate = await knit.apply(EVALUATE)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        assert run.summary.status is RunStatus.FAILED
        assert run.summary.exit == Exit(code, "(container main) Error")
        assert await knit.store.runs.find(RunQuery(plan_ids={evaluate.summary.plan_id})) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("fail", "status"), [(True, "failed"), (False, "done")])
async def test_a_running_run_is_stopped(
    postgres: EmbeddedPostgres, fail: bool, status: str
) -> None:
    """Its pod is gone before its Data become final; stopping twice is stopping once."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        await knit.store.runs.stop(run.summary.run_id, fail=fail)
        await knit.store.runs.stop(run.summary.run_id, fail=fail)
        ended = await knit.final(run.summary.run_id)
        assert ended.summary.status == status
        assert ended.summary.exit == (
            Exit(253, "aborted by user") if fail else Exit(0, "stopped by user")
        )
        assert await backend.run_pods() == []
        with pytest.raises(IllegalMove):
            await knit.store.runs.stop(run.summary.run_id, fail=fail)


async def test_a_stop_that_takes_long_says_why(postgres: EmbeddedPostgres) -> None:
    """A back-end that is away, then a pod that does not end: its Run stays until it is gone."""
    engine = QUICK.model_copy(update={"stop_retry_interval": timedelta(seconds=0.2)})

    class Stubborn(MemoryBackend):
        answer: Exception | None = BackendUnavailable("no container engine answers")
        ends = False

        async def stop(self, pod_name: str, *, grace: timedelta) -> None:
            if self.answer is not None:
                raise self.answer
            if self.ends:
                await super().stop(pod_name, grace=grace)

    backend = Stubborn()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        away = await pending_with(knit, run.summary.run_id, "BackendUnavailable")
        assert away.summary.status is RunStatus.ABORTING
        await _details_say(knit, run.summary.run_id, "**aborting**: [BackendUnavailable]")
        backend.answer = None
        await pending_with(knit, run.summary.run_id, "PodNotGone")
        backend.ends = True
        ended = await knit.final(run.summary.run_id)
        assert (ended.summary.status, ended.waiting) == (RunStatus.FAILED, None)


async def test_a_run_that_never_started_is_aborted(postgres: EmbeddedPostgres) -> None:
    """A deactivated Run has no workflow; the Projector ends it."""
    async with knit_environment(postgres=postgres) as knit:
        plan = await knit.apply({**TRAIN, "active": False})
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        assert run.summary.status is RunStatus.DEACTIVATED
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED


async def test_a_cancelled_workflow_aborts_its_run(postgres: EmbeddedPostgres) -> None:
    """Cancels in Temporal's Web UI is a stop --fail, clean-up included."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.cancel()
        ended = await knit.final(run.summary.run_id)
        assert ended.summary.status is RunStatus.FAILED
        assert ended.summary.exit is not None
        assert ended.summary.exit.code == 253
        async with asyncio.timeout(PATIENCE):
            while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await asyncio.sleep(0.05)
        assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
        assert await backend.run_pods() == []


async def test_a_run_that_is_cancelled_while_it_is_launched_leaves_no_pod(
    postgres: EmbeddedPostgres,
) -> None:
    """The launch is waited for, it ends well, and what it has started is ended."""
    launching, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryBackend):
        def is_at_hand(self) -> bool:
            return False

        async def launch(self, pod: RunPod) -> Launch:
            launching.set()
            with suppress(asyncio.CancelledError):
                await go_on.wait()
            return await super().launch(pod)

    backend = Slow()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await launching.wait()
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.cancel()
        asked = EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
        async with asyncio.timeout(PATIENCE):
            while asked not in {one.event_type for one in (await handle.fetch_history()).events}:
                await asyncio.sleep(0.02)
        go_on.set()
        ended = await knit.final(run.summary.run_id)
        assert ended.summary.status is RunStatus.FAILED
        assert ended.summary.exit == Exit(253, "cancelled in Temporal")
        async with asyncio.timeout(PATIENCE):
            while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await asyncio.sleep(0.05)
        assert await backend.run_pods() == []


async def test_a_pod_that_is_refused_ends_its_run_in_the_back_ends_words(
    postgres: EmbeddedPostgres,
) -> None:
    class Refusing(MemoryBackend):
        async def launch(self, pod: RunPod) -> Launch:
            raise BackendRejected("over the quota of pods")

    async with knit_environment(postgres=postgres, backend=Refusing()) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        assert run.summary.status is RunStatus.FAILED
        assert run.summary.exit == Exit(STUCK_CODE, "over the quota of pods")
        events = await knit.store.runs.events(run.summary.run_id)
        assert "refused by the compute back-end" in [event.cause for event in events]


async def test_the_web_ui_shows_what_the_last_drain_did(postgres: EmbeddedPostgres) -> None:
    async with knit_environment(postgres=postgres, work=False) as knit:
        brief = knit.deps.projector_input().model_copy(
            update={"drain_for": timedelta(milliseconds=100)}
        )
        # Before the workers, which then find it.
        await start_projector(knit.temporal, brief)
        async with AsyncExitStack() as stack:
            for worker in workers(knit.temporal, knit.deps, ALL_ROLES):
                await stack.enter_async_context(worker)
            handle = knit.temporal.get_workflow_handle(names.projector_workflow(brief.shard))
            async with asyncio.timeout(PATIENCE):
                while (
                    "last drain: "
                    not in (await handle.query("__temporal_workflow_metadata")).current_details
                ):
                    await asyncio.sleep(0.05)


async def test_workers_keep_workflows_as_the_settings_say(postgres: EmbeddedPostgres) -> None:
    """So many, and when killed they delay the next step for so long, and no less: steps of a burst

    wait in a worker's queue, and would be replayed on another one.
    """
    async with (
        knit_environment(postgres=postgres, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        for worker in workers(knit.temporal, knit.deps, ALL_ROLES):
            await stack.enter_async_context(worker)
            waits = worker.config()["sticky_queue_schedule_to_start_timeout"]
            assert waits == knit.deps.engine.step_timeout
            assert worker.config()["max_cached_workflows"] == knit.deps.engine.cached_workflows


@pytest.mark.parametrize("kind", [StartFailureKind.IMAGE, StartFailureKind.TRANSIENT])
async def test_a_pod_that_cannot_start_ends_its_run(
    postgres: EmbeddedPostgres, kind: StartFailureKind
) -> None:
    """After the patience for its kind of trouble; the reason is kept, the pod removed."""

    class Troubled(MemoryBackend):
        async def launch(self, pod: RunPod) -> Launch:
            self.set_start_failure(pod.name, StartFailure(kind, "ErrImagePull", "no such image"))
            return await super().launch(pod)

    backend = Troubled()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        assert run.summary.status is RunStatus.FAILED
        assert run.summary.exit is not None
        assert run.summary.exit.code == 255
        assert "[ErrImagePull] no such image" in run.summary.exit.message
        assert await backend.run_pods() == []


async def pending_with(knit: KnitEnvironment, run_id: str, code: str) -> RunDetail:
    """Waits until a Run says that this keeps it from starting; gives the Run."""
    async with asyncio.timeout(PATIENCE):
        while True:
            run = await knit.store.runs.get(run_id)  # type: ignore[arg-type]
            if run.waiting is not None and run.waiting.code == code:
                return run
            await asyncio.sleep(0.02)


async def _details_say(knit: KnitEnvironment, run_id: str, words: str) -> None:
    """Waits until the Web UI's current details of a Run's workflow say so."""
    handle = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
    async with asyncio.timeout(PATIENCE):
        while words not in (await handle.query("__temporal_workflow_metadata")).current_details:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("step", ["create_volume", "launch"])
@pytest.mark.parametrize(
    "error",
    [
        BackendUnavailable("no container engine answers", advice="start it"),
        StorageFull("there is no space left"),
        OSError("something nobody has thought of"),
    ],
)
async def test_a_backend_that_is_away_is_waited_for_and_named(
    postgres: EmbeddedPostgres, step: str, error: Exception
) -> None:
    """For as long as it takes; the Run says so where it stands, and goes on when it is back."""

    class Away(MemoryBackend):
        gone = False

        async def create_volume(self, volume: Volume) -> VolumeOptions:
            if self.gone and step == "create_volume":
                raise error
            return await super().create_volume(volume)

        async def launch(self, pod: RunPod) -> Launch:
            if self.gone and step == "launch":
                raise error
            return await super().launch(pod)

    backend = Away()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        await knit.push({"type": "dataset"})
        backend.gone = True
        plan = await knit.apply(TRAIN)
        run = await only_run(knit, plan.summary.plan_id)
        run = await pending_with(knit, run.summary.run_id, type(error).__name__)
        stands = RunStatus.WAITING if step == "create_volume" else RunStatus.READY
        assert run.summary.status is stands
        assert run.waiting is not None
        assert str(error) in run.waiting.reason
        assert run.waiting.kind is WaitKind.BACKEND
        assert run.waiting.until is None
        await _details_say(knit, run.summary.run_id, str(error))
        backend.gone = False
        ended = await knit.final(run.summary.run_id)
        assert (ended.summary.status, ended.waiting) == (RunStatus.DONE, None)
        told = [
            (event.to_status, event.cause)
            for event in await knit.store.runs.events(run.summary.run_id)
            if event.from_status is event.to_status
        ]
        [(status, cause)] = told
        assert status is stands
        assert str(error) in cause


async def test_a_watch_whose_backend_is_away_names_it(postgres: EmbeddedPostgres) -> None:
    """While the pod is pending: whether it starts is not known then."""

    class Away(MemoryBackend):
        gone = True

        async def launch(self, pod: RunPod) -> Launch:
            self.set_start_failure(
                pod.name, StartFailure(StartFailureKind.PROGRESS, "PullingImage", "pulling")
            )
            return await super().launch(pod)

        async def watch(self, pod_name: str) -> AsyncGenerator[Observation, None]:
            yield await self.observe(pod_name)
            if self.gone:
                raise BackendUnavailable("the API server does not answer")
            async for observation in super().watch(pod_name):
                yield observation

    backend = Away()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        run = await pending_with(knit, run.summary.run_id, "BackendUnavailable")
        assert run.summary.status is RunStatus.STARTING
        backend.gone = False
        await pending_with(knit, run.summary.run_id, "PullingImage")
        backend.set_start_failure(names.run_pod(run.summary.run_id, 1), None)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


async def test_trouble_is_told_with_its_end_and_taken_back(postgres: EmbeddedPostgres) -> None:
    """Each reason as it comes, until when it may last; nothing once the pod is on its way."""
    backend = MemoryBackend()
    backend.hold()
    engine = QUICK.model_copy(update={"start_deadline": timedelta(minutes=10)})
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        make = backend.launch

        async def launch(pod: RunPod) -> Launch:
            backend.set_start_failure(
                pod.name, StartFailure(StartFailureKind.PROGRESS, "PullingImage", "pulling it")
            )
            return await make(pod)

        backend.launch = launch  # type: ignore[method-assign]
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        pulling = await pending_with(knit, run.summary.run_id, "PullingImage")
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        async with asyncio.timeout(PATIENCE):
            while await handle.query("status") != "starting":
                await asyncio.sleep(0.05)
        # What the launch has told is still so when the watch goes on.
        await _details_say(knit, run.summary.run_id, "**starting**: [PullingImage] pulling it")
        pod = names.run_pod(run.summary.run_id, 1)
        backend.set_start_failure(
            pod, StartFailure(StartFailureKind.TRANSIENT, "RegistryUnreachable", "refused")
        )
        refused = await pending_with(knit, run.summary.run_id, "RegistryUnreachable")
        assert pulling.waiting is not None
        assert pulling.waiting.until is None
        assert refused.waiting is not None
        assert refused.waiting.since is not None
        assert refused.waiting.until is not None
        left = refused.waiting.until - refused.waiting.since
        assert timedelta(minutes=9) < left < timedelta(minutes=11)
        await _details_say(knit, run.summary.run_id, "[RegistryUnreachable] refused; given up at")
        backend.set_start_failure(pod, None)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        assert (await knit.store.runs.get(run.summary.run_id)).waiting is None
        backend.finish(pod)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


async def test_a_pod_without_room_waits(postgres: EmbeddedPostgres) -> None:
    """Unschedulable is no failure: the Run stays starting, and goes on once there is room."""

    class Crowded(MemoryBackend):
        async def launch(self, pod: RunPod) -> Launch:
            self.set_start_failure(
                pod.name, StartFailure(StartFailureKind.UNSCHEDULABLE, "Unschedulable", "no node")
            )
            return await super().launch(pod)

    backend = Crowded()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await pending_with(knit, run.summary.run_id, "Unschedulable")
        await asyncio.sleep(3)  # longer than any patience of this environment
        run = await knit.store.runs.get(run.summary.run_id)
        assert run.summary.status is RunStatus.STARTING
        assert run.waiting is not None
        assert (run.waiting.code, run.waiting.reason) == ("Unschedulable", "no node")
        backend.set_start_failure(names.run_pod(run.summary.run_id, 1), None)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


async def test_a_lost_pod_fails_its_run(postgres: EmbeddedPostgres) -> None:
    """A pod that vanishes is exit code 254; it is never started again."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        backend.lose(names.run_pod(run.summary.run_id, 1))
        ended = await knit.final(run.summary.run_id)
        assert ended.summary.exit == Exit(254, "worker for the run is not found")
        assert len(backend.launches) == 1


async def test_twenty_data_make_twenty_runs_at_once(postgres: EmbeddedPostgres) -> None:
    """A Plan that comes late finds all Data that satisfy it."""
    async with knit_environment(postgres=postgres) as knit:
        for _ in range(20):
            await knit.push({"type": "dataset"})
        plan = await knit.apply(TRAIN)
        runs = await knit.runs_of(plan.summary.plan_id, 20)
        assert len({run.inputs[0].knit_id for run in runs}) == 20
        assert {run.summary.status for run in runs} == {RunStatus.DONE}


async def test_admission_keeps_to_the_limit(postgres: EmbeddedPostgres) -> None:
    """No more Runs are under way than the limit; the others wait as rows and follow."""
    backend = MemoryBackend()
    backend.hold()
    engine = QUICK.model_copy(update={"max_active_runs": 2})
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        for _ in range(5):
            await knit.push({"type": "dataset"})
        for count in range(1, 6):
            async with asyncio.timeout(PATIENCE):
                while len(backend.launches) < min(count + 1, 5):
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert len(backend.launches) <= count + 1  # one less have been told to end
            backend.finish(backend.launches[count - 1])
        runs = await knit.runs_of(plan.summary.plan_id, 5)
        assert {run.summary.status for run in runs} == {RunStatus.DONE}
