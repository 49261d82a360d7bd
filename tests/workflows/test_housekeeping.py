"""Retry, deletion, garbage collection and reconciliation, on a real store and Temporal server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus

from knit_workflows import names
from knit_workflows.compute.base import RunPod, Transfer
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    IllegalMove,
    RunNotFound,
)
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs.run import Exit, RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume, VolumeOptions
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, Deps
from knit_workflows.settings import EngineSettings
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import workers
from knit_workflows.workflows.options import SHORT
from tests.postgres import fetch
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN, only_run, until_status

FREQUENT = QUICK.model_copy(
    update={"gc_interval": timedelta(seconds=1), "gc_grace_period": timedelta(seconds=1)}
)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.05)


def gone(backend: MemoryBackend, knit_ids: set[KnitId | None]) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        return not any(f"data-knitid-{one}" in backend.volumes for one in knit_ids)

    return is_gone


async def test_a_retried_run_runs_again(postgres: EmbeddedPostgres) -> None:
    """The second generation is an execution of its own; the volumes of the first are deleted."""
    codes = iter([3, 0])
    backend = MemoryBackend(lambda _: Exit(next(codes), ""))
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [failed] = await knit.runs_of(plan.summary.plan_id, 1)
        assert failed.summary.status is RunStatus.FAILED
        await knit.store.runs.retry(failed.summary.run_id)
        done = await knit.final(failed.summary.run_id)
        assert done.summary.status is RunStatus.DONE
        assert done.generation == 2
        assert backend.launches == [names.run_pod(done.summary.run_id, n) for n in (1, 2)]
        await eventually(gone(backend, {failed.outputs[0].knit_id}))
        assert f"data-knitid-{done.outputs[0].knit_id}" in backend.volumes


async def test_a_deleted_run_s_volumes_are_collected(postgres: EmbeddedPostgres) -> None:
    """After the grace; one volume that resists does not keep the others, and is tried again."""

    class Resisting(MemoryBackend):
        refusals = 2

        async def delete_volume(self, volume: object) -> None:
            if self.refusals:
                self.refusals -= 1
                raise BackendUnavailable("busy")
            await super().delete_volume(volume)  # type: ignore[arg-type]

    backend = Resisting()
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        made = {run.outputs[0].knit_id, run.log.knit_id if run.log else None}
        await knit.store.runs.delete(run.summary.run_id)
        await eventually(gone(backend, made))
        assert backend.refusals == 0

        async def collected() -> bool:
            return not await knit.store.housekeeping.discarded(older_than=timedelta(0), limit=1)

        await eventually(collected)


async def test_however_many_volumes_resist_the_others_are_collected(
    postgres: EmbeddedPostgres,
) -> None:
    """More than a turn tries, and all of them older."""

    class Resisting(MemoryBackend):
        async def delete_volume(self, volume: Volume) -> None:
            if volume.name.startswith("resists"):
                raise BackendUnavailable("permission denied")
            await super().delete_volume(volume)

    backend = Resisting()
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        fetch(
            knit.url,
            "INSERT INTO discarded (knit_id, volume, at) SELECT gen_random_uuid(),"
            " 'resists-' || n, now() - interval '1h' FROM generate_series(1, 120) n",
        )
        await knit.store.runs.delete(run.summary.run_id)
        await eventually(gone(backend, {run.outputs[0].knit_id}))


async def test_without_room_volumes_are_collected_soon(postgres: EmbeddedPostgres) -> None:
    """Whoever deletes a Run on a full disk waits for the room it took."""
    long_grace = FREQUENT.model_copy(
        update={
            "gc_grace_period": timedelta(hours=1),
            "full_disk_grace_period": timedelta(milliseconds=10),
        }
    )
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend, engine=long_grace) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        await knit.store.runs.delete(run.summary.run_id)
        backend.storage_full_reason = "the disk has 3 MiB left"
        await eventually(gone(backend, {run.outputs[0].knit_id}))


async def test_nothing_younger_than_the_grace_is_touched(postgres: EmbeddedPostgres) -> None:
    backend = MemoryBackend()
    long_grace = FREQUENT.model_copy(update={"gc_grace_period": timedelta(hours=1)})
    async with knit_environment(postgres=postgres, backend=backend, engine=long_grace) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        await knit.store.runs.delete(run.summary.run_id)
        await _turns(knit, names.GC_WORKFLOW, 2)
        assert f"data-knitid-{run.outputs[0].knit_id}" in backend.volumes


async def test_a_terminated_workflow_is_healed(postgres: EmbeddedPostgres) -> None:
    """Its Run goes on where it was: the same pod, started once."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.terminate("by hand")

        async def is_back() -> bool:
            return (await handle.describe()).status is WorkflowExecutionStatus.RUNNING

        await eventually(is_back)
        pod = names.run_pod(run.summary.run_id, 1)
        backend.finish(pod)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE
        assert backend.launches == [pod]


async def test_a_terminated_projector_is_healed(postgres: EmbeddedPostgres) -> None:
    """Otherwise no commit would become a Run any more."""
    async with knit_environment(postgres=postgres, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        await knit.kept()
        await knit.temporal.get_workflow_handle(names.projector_workflow(0)).terminate("by hand")
        await knit.push({"type": "dataset"})
        assert await knit.runs_of(plan.summary.plan_id, 1)


async def test_runs_that_their_plan_has_left_behind_are_moved(postgres: EmbeddedPostgres) -> None:
    """As when the API dies while it activates a Plan with many Runs."""
    async with knit_environment(postgres=postgres, engine=FREQUENT) as knit:
        plan = await knit.apply({**TRAIN, "active": False})
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.DEACTIVATED)
        fetch(
            knit.url,
            "UPDATE plan SET active = true WHERE plan_id = %s",
            plan.summary.plan_id,
        )
        done = await knit.final(run.summary.run_id)
        assert done.summary.status is RunStatus.DONE


async def test_an_upload_whose_workflow_is_terminated_fails(postgres: EmbeddedPostgres) -> None:
    """It leaves a failed Run and no transfer that would keep it from being deleted."""
    async with knit_environment(postgres=postgres, engine=FREQUENT) as knit:
        opened = await knit.knit.open_upload()
        assert opened.run_id is not None
        workflow_id = names.transfer_workflow(opened.transfer_id)
        await knit.temporal.get_workflow_handle(workflow_id).terminate("by hand")
        assert (await knit.final(opened.run_id)).summary.status is RunStatus.FAILED

        async def is_deleted() -> bool:
            try:
                await knit.store.runs.delete(opened.run_id)  # type: ignore[arg-type]
            except RunNotFound:
                return True
            except IllegalMove:  # its transfer is still being closed
                return False
            return True

        await eventually(is_deleted)


async def test_a_leftover_pod_is_removed(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a Run that is final; a pod of a Run that the store does not know is left alone.

    One that resists is told, and tried again.
    """

    class Resisting(MemoryBackend):
        refusals = 0

        async def stop(self, pod_name: str, *, grace: timedelta) -> None:
            if self.refusals:
                self.refusals -= 1
                raise BackendUnavailable("busy")
            await super().stop(pod_name, grace=grace)

    backend = Resisting()
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        foreign = names.run_pod("11111111-2222-4333-8444-555555555555", 1)
        left = names.run_pod(run.summary.run_id, 1)
        # Which may still have its own pod to release.
        workflow = names.run_workflow(run.summary.run_id, 1)
        await knit.temporal.get_workflow_handle(workflow).result()
        backend.refusals = 2
        for name in (left, foreign):
            await backend.launch(RunPod(name, run.summary.run_id, 1, "plan", "image:1", ()))

        async def is_removed() -> bool:
            return await backend.run_pods() == [foreign]

        await eventually(is_removed)
        assert not backend.refusals
        assert "run pod is not removed" in caplog.text


async def test_a_run_deleted_while_it_waits_ends_its_workflow(postgres: EmbeddedPostgres) -> None:
    """The execution that was on its way says that it is superseded; nothing was launched."""
    armed, launching, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(MemoryBackend):
        async def create_volume(self, volume: Volume) -> VolumeOptions:
            options = await super().create_volume(volume)
            if armed.is_set() and not launching.is_set():
                launching.set()
                await go_on.wait()
            return options

    backend = Slow()
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        plan = await knit.apply(TRAIN)
        opened = await knit.knit.open_upload()
        armed.set()
        await knit.store.data.change_tags(
            opened.knit_id, TagChange(add=frozenset({Tag("type", "dataset")}))
        )
        await knit.knit.finish(opened, ok=True)
        await launching.wait()
        [run] = await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan.summary.plan_id})))
        await knit.store.runs.delete(run.summary.run_id)
        go_on.set()
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        assert (await handle.result())["status"] == "superseded"
        assert backend.launches == []


async def _turns(knit: KnitEnvironment, schedule: str, count: int) -> None:
    """Waits until a schedule has had so many more turns."""
    handle = knit.temporal.get_schedule_handle(schedule)
    before = (await handle.describe()).info.num_actions

    async def done() -> bool:
        return (await handle.describe()).info.num_actions >= before + count

    await eventually(done)


async def test_a_paused_schedule_stays_paused(postgres: EmbeddedPostgres) -> None:
    """A worker that starts brings it to its settings, and leaves the pause to who made it."""
    async with knit_environment(postgres=postgres, engine=FREQUENT) as knit:
        await knit.kept()
        schedule = knit.temporal.get_schedule_handle(names.GC_WORKFLOW)
        await schedule.pause(note="by hand")
        seldom = FREQUENT.model_copy(update={"gc_interval": timedelta(hours=3)})
        other = Deps(knit.store, knit.backend, engine=seldom, queues=knit.deps.queues)
        await other.keeper(knit.temporal).ensure()
        found = (await schedule.describe()).schedule
        assert found.state.paused
        assert found.spec.intervals[0].every == timedelta(hours=3)


async def test_one_transfer_that_resists_does_not_keep_the_others(
    postgres: EmbeddedPostgres,
) -> None:
    """Its endpoint cannot be closed at first; the other's is, and later its own too."""

    class Resisting(MemoryBackend):
        refused = False

        async def close_transfer(self, transfer: Transfer) -> None:
            if not self.refused:
                self.refused = True
                raise BackendRejected("busy")
            await super().close_transfer(transfer)

    backend = Resisting()
    async with knit_environment(postgres=postgres, backend=backend, engine=FREQUENT) as knit:
        for _ in range(2):
            opened = await knit.knit.open_upload()
            workflow_id = names.transfer_workflow(opened.transfer_id)
            await knit.temporal.get_workflow_handle(workflow_id).terminate("by hand")

        async def all_closed() -> bool:
            return not await knit.store.housekeeping.stale_transfers(older_than=timedelta(0))

        await eventually(all_closed)
        assert backend.refused


def test_the_default_grace_outlasts_a_launch() -> None:
    """A launch that was overtaken by a deletion may make volumes for as long as it may take."""
    assert EngineSettings().gc_grace_period > SHORT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (names.run_pod("11111111-2222-4333-8444-555555555555", 1), 1),
        (names.run_pod("11111111-2222-4333-8444-555555555555", 12), 12),
        ("worker-run-x", None),
        ("somebody-else", None),
    ],
)
def test_pods_name_their_runs(name: str, expected: int | None) -> None:
    found = names.run_of_pod(name)
    assert (found[1] if found else None) == expected


async def test_an_import_that_is_not_ended_in_time_fails(postgres: EmbeddedPostgres) -> None:
    """One that was ended, but whose API process then died, is done."""
    lapsing = FREQUENT.model_copy(
        update={"import_window": timedelta(seconds=1), "import_key_life": timedelta(seconds=9)}
    )
    async with (
        knit_environment(postgres=postgres, engine=lapsing, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        ended = await knit.store.imports.begin()
        await knit.store.imports.end(ended, window=timedelta(minutes=1))
        late = await knit.store.imports.begin()
        for worker in workers(knit.temporal, knit.deps, ALL_ROLES):
            await stack.enter_async_context(worker)
        failed = await knit.final(late.run_id)
        assert failed.summary.status is RunStatus.FAILED
        assert failed.summary.exit is not None
        assert "not ended in time" in failed.summary.exit.message
        history = [one.to_status for one in await knit.store.runs.events(late.run_id)]
        assert history == [RunStatus.RUNNING, RunStatus.ABORTING, RunStatus.FAILED]
        assert (await knit.final(ended.run_id)).summary.status is RunStatus.DONE
