"""`python -m tests.workflows.record VERSION` records one history per scenario, to be replayed.

Run it when a scenario is new, never to make a failing replay pass: an old history that no longer
replays is a Run under way that would break.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.worker import Worker

from knit_workflows import names
from knit_workflows.activities.backups import ProcessBackupActivities
from knit_workflows.compute.base import (
    Endpoint,
    Launch,
    RunPod,
    StartFailure,
    StartFailureKind,
    Transfer,
)
from knit_workflows.contracts.backups import BackupTaken, TakeBackup
from knit_workflows.contracts.housekeeping import HousekeepingInput
from knit_workflows.contracts.volumes import VolumesInput
from knit_workflows.domain.errors import BackendUnavailable, KnitError, TransferNotReady
from knit_workflows.domain.hooks import HookPhase, Hooks
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import Exit, RunStatus
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.workflows.backup import BackupWorkflow
from knit_workflows.workflows.housekeeping import (
    GarbageCollectionWorkflow,
    HousekeepingWorkflow,
)
from knit_workflows.workflows.volumes import VolumesWorkflow
from tests.receiver import AGREED, Answer, Call, receiver
from tests.workflows.test_hooks import SETTINGS, UNAVAILABLE
from tests.workflows.test_run import TRAIN, only_run, pending_with, until_status

HISTORIES = Path(__file__).parent / "histories"


async def _save(knit: KnitEnvironment, workflow_id: str, scenario: str) -> None:
    history = await knit.temporal.get_workflow_handle(workflow_id).fetch_history()
    HISTORIES.mkdir(exist_ok=True)
    target = HISTORIES / f"{scenario}.{sys.argv[1]}.json"
    target.write_text(json.dumps(without_paths(json.loads(history.to_json())), indent=2) + "\n")


def without_paths(value: Any) -> Any:
    """Drops stack traces, which name the folders of the machine and play no part in a replay."""
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items() if key != "stackTrace"}
    return [without_paths(one) for one in value] if isinstance(value, list) else value


async def _ended(code: int, scenario: str, *, lasts: timedelta = timedelta()) -> None:
    async def behave(_: RunPod) -> Exit:
        await asyncio.sleep(lasts.total_seconds())
        return Exit(code, "" if code == 0 else "(container main) Error")

    backend = MemoryBackend(behave)
    async with knit_environment(backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        knit_id = await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        workflow_id = names.run_workflow(run.summary.run_id, 1)
        await knit.temporal.get_workflow_handle(workflow_id).result()
        await _save(knit, workflow_id, scenario)
        if code == 0 and lasts:
            await _save(knit, names.projector_workflow(0), "projector.working")
            opened = await knit.knit.open_download(knit_id)
            await knit.knit.finish(opened, ok=True)
            transfer = names.transfer_workflow(opened.transfer_id)
            await knit.temporal.get_workflow_handle(transfer).result()
            await _save(knit, transfer, "transfer.download")


async def _stopped(cancel: bool, scenario: str) -> None:
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        if cancel:
            await handle.cancel()
        else:
            await knit.store.runs.stop(run.summary.run_id, fail=True)
        await knit.final(run.summary.run_id)
        await asyncio.sleep(1)
        await _save(knit, handle.id, scenario)


async def _pending(scenario: str) -> None:
    class Away(MemoryBackend):
        gone = True

        async def launch(self, pod: RunPod) -> Launch:
            self.set_start_failure(
                pod.name, StartFailure(StartFailureKind.PROGRESS, "PullingImage", "pulling")
            )
            if self.gone:
                self.gone = False
                raise BackendUnavailable("no container engine answers")
            return await super().launch(pod)

    backend = Away()
    async with knit_environment(backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await pending_with(knit, run.summary.run_id, "PullingImage")
        await asyncio.sleep(QUICK.short_run_wait.total_seconds())
        backend.set_start_failure(names.run_pod(run.summary.run_id, 1), None)
        await knit.final(run.summary.run_id)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.result()
        await _save(knit, handle.id, scenario)


async def _disrupted(scenario: str) -> None:
    """A Run that is launched again; its first generation."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        await asyncio.sleep(QUICK.short_run_wait.total_seconds() * 2)
        name = names.run_pod(run.summary.run_id, 1)
        backend.finish(name, Exit(143, "(container main) Error"), disruption="evicted")
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await handle.result()
        await _save(knit, handle.id, scenario)


async def _disrupted_too_often(scenario: str) -> None:
    """A Run that is not launched again any more: its first generation, of a limit of one; and the
    second, which fails."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(backend=backend) as knit:
        plan = await knit.apply(TRAIN | {"pod": {"relaunches": 1}})
        await knit.push({"type": "dataset"})
        run_id = (await only_run(knit, plan.summary.plan_id)).summary.run_id
        for generation in (1, 2):
            await _generation_runs(knit, run_id, generation)
            name = names.run_pod(run_id, generation)
            backend.finish(name, Exit(143, "(container main) Error"), disruption="evicted")
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 2))
        await handle.result()
        await _save(knit, handle.id, scenario)


async def _generation_runs(knit: KnitEnvironment, run_id: RunId, generation: int) -> None:
    while True:
        run = await knit.store.runs.get(run_id)
        if (run.generation, run.summary.status) == (generation, RunStatus.RUNNING):
            return
        await asyncio.sleep(0.05)


async def _disrupted_with_hooks(scenario: str) -> None:
    """The same with hooks in force, and a limit of three: the first generation."""
    backend = MemoryBackend()
    backend.hold()
    with receiver() as hooks:
        hooks.answer = lambda _: AGREED
        async with knit_environment(hooks=SETTINGS, backend=backend) as knit:
            wanted = Hooks((hooks.url("/before"),), (hooks.url("/after"),))
            await knit.store.hooks.configure(wanted)
            plan = await knit.apply(TRAIN)
            await knit.push({"type": "dataset"})
            run_id = (await only_run(knit, plan.summary.plan_id)).summary.run_id
            await _generation_runs(knit, run_id, 1)
            backend.finish(names.run_pod(run_id, 1), Exit(143, "x"), disruption="evicted")
            handle = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
            await handle.result()
            await _save(knit, handle.id, scenario)


async def _transfers() -> None:
    """An upload; and a download that does not open before its deadline."""

    class Shut(MemoryBackend):
        shut = False

        async def open_transfer(self, transfer: Transfer) -> Endpoint:
            if self.shut:
                raise TransferNotReady("no node has room")
            return await super().open_transfer(transfer)

    backend = Shut()
    engine = QUICK.model_copy(update={"open_deadline": timedelta(seconds=3)})
    async with knit_environment(backend=backend, engine=engine) as knit:
        knit_id = await knit.push({"type": "dataset"})
        backend.shut = True
        with suppress(KnitError):
            await knit.knit.open_download(knit_id)
        query = f"WorkflowType = '{names.TRANSFER_WORKFLOW}' AND CloseTime IS NOT NULL"
        while len(found := [one async for one in knit.temporal.list_workflows(query)]) < 2:
            await asyncio.sleep(0.05)
        for scenario, one in zip(
            ("transfer.upload", "transfer.shut"),
            sorted(found, key=lambda one: one.start_time),
            strict=True,
        ):
            await _save(knit, one.id, scenario)


async def _hooked(scenario: str) -> None:
    """A Run whose Before hook agrees to its start only when it is asked again."""
    with receiver() as hooks:
        refusals = iter([UNAVAILABLE])

        def answer(call: Call) -> Answer:
            starts = call.path == "/before" and call.transition[1] == "starting"
            return next(refusals, AGREED) if starts else AGREED

        hooks.answer = answer
        async with knit_environment(hooks=SETTINGS) as knit:
            wanted = Hooks((hooks.url("/before"),), (hooks.url("/after"),))
            await knit.store.hooks.configure(wanted)
            plan = await knit.apply(TRAIN)
            await knit.push({"type": "dataset"})
            [run] = await knit.runs_of(plan.summary.plan_id, 1)
            handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
            await handle.result()
            await _save(knit, handle.id, scenario)


async def _housekeeping() -> None:
    async with knit_environment() as knit:
        for kind, name in (
            (GarbageCollectionWorkflow.run, names.GC_WORKFLOW),
            (HousekeepingWorkflow.run, names.HOUSEKEEPING_WORKFLOW),
        ):
            request = HousekeepingInput(
                projector=knit.deps.projector_input(), grace=knit.deps.engine.gc_grace_period
            )
            queue = knit.deps.queues.engine
            handle = await knit.temporal.start_workflow(
                kind, request, id=f"recorded-{name}", task_queue=queue
            )
            await handle.result()
            await _save(knit, handle.id, name.removeprefix("knit."))


async def _hook_test() -> None:
    """Nobody listens there; how the call ends plays no part in the history's form."""
    async with knit_environment() as knit:
        await knit.knit.test_hook("http://127.0.0.1:9/", HookPhase.BEFORE)
        query = f"WorkflowType = '{names.HOOK_TEST_WORKFLOW}'"
        while not (found := [one async for one in knit.temporal.list_workflows(query)]):
            await asyncio.sleep(0.05)
        await _save(knit, found[0].id, "hook_test")


async def _volumes() -> None:
    async with knit_environment() as knit:
        queue = knit.deps.queues.interactive
        request = VolumesInput(
            question="adoptable", names=["/srv", "relative"], compute_queue=queue
        )
        handle = await knit.temporal.start_workflow(
            VolumesWorkflow.run, request, id="recorded-volumes", task_queue=queue
        )
        await handle.result()
        await _save(knit, handle.id, "volumes")


async def _trial() -> None:
    async with knit_environment() as knit:
        await knit.knit.try_plan(
            {"image": "demo:1", "inputs": [{"path": "/in", "tags": ["type:a"]}]}
        )
        query = f"WorkflowType = '{names.TRIAL_WORKFLOW}'"
        while not (found := [one async for one in knit.temporal.list_workflows(query)]):
            await asyncio.sleep(0.05)
        await _save(knit, found[0].id, "try_plan")


async def _kept() -> None:
    """A download that keeps its endpoint, and finds that it was read by since."""

    class Pods(MemoryBackend):
        async def open_transfer(self, transfer: Transfer) -> Endpoint:
            await super().open_transfer(transfer)
            return Endpoint("http://127.0.0.1:1/")

    engine = QUICK.model_copy(update={"transfer_linger": timedelta(seconds=3)})
    async with knit_environment(backend=Pods(), engine=engine) as knit:
        knit_id = await knit.push({"type": "dataset"})
        first = await knit.knit.open_download(knit_id)
        await knit.knit.finish(first, ok=True)
        await asyncio.sleep(1)
        second = await knit.knit.open_download(knit_id)
        await knit.knit.finish(second, ok=True)
        workflow_id = names.transfer_workflow(first.transfer_id)
        await knit.temporal.get_workflow_handle(workflow_id).result()
        await _save(knit, workflow_id, "transfer.kept")


async def _backup() -> None:
    """One that a schedule has begun, by a worker with that role alone."""
    taken = BackupTaken(set_id="a", volumes=1, volumes_read=1, bytes_stored=1, seconds=0.1)
    printed = (sys.executable, "-S", "-c", f"print({taken.model_dump_json()!r})")
    async with (
        knit_environment() as knit,
        Worker(
            knit.temporal,
            task_queue=names.BACKUP_QUEUE,
            workflows=[BackupWorkflow],
            activities=[ProcessBackupActivities(printed).take_backup],
        ),
    ):
        await knit.temporal.execute_workflow(
            BackupWorkflow.run,
            TakeBackup(destination="/backups"),
            id=names.BACKUP_WORKFLOW,
            task_queue=names.BACKUP_QUEUE,
        )
        await _save(knit, names.BACKUP_WORKFLOW, "backup")


async def main() -> None:
    """Records every scenario."""
    await _ended(0, "run.short")
    await _ended(0, "run.done", lasts=QUICK.short_run_wait * 2)
    await _ended(3, "run.failed", lasts=QUICK.short_run_wait * 2)
    await _stopped(False, "run.stopped")
    await _stopped(True, "run.cancelled")
    await _pending("run.pending")
    await _disrupted("run.disrupted")
    await _disrupted_too_often("run.disrupted_too_often")
    await _disrupted_with_hooks("run.disrupted_with_hooks")
    await _transfers()
    await _hooked("run.hooked")
    await _housekeeping()
    await _hook_test()
    await _volumes()
    await _trial()
    await _kept()
    await _backup()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
