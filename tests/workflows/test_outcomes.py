"""How a Run ends whose pod ends in an unusual way, on real servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

import pytest

from knit_workflows import names
from knit_workflows.compute.base import Launch, Observation, Phase, RunPod, oom_note
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import OOM_KILLED, SUCCEEDED, Exit, RunQuery, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import QUICK, MemoryBackend, knit_environment
from knit_workflows.workflows.run import RunWorkflow
from tests.workflows.test_run import TRAIN, only_run, until_status


@pytest.mark.parametrize(
    "wait", [pytest.param(timedelta(), marks=pytest.mark.patient), timedelta(minutes=1)]
)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_child_that_was_killed_for_memory_is_told(
    postgres: EmbeddedPostgres, wait: timedelta, fails: bool
) -> None:
    """As a note, or as a failure if the setting says so; in the list and in the history."""
    engine = QUICK.model_copy(update={"short_run_wait": wait, "oom_kill_fails": fails})
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        backend.finish(names.run_pod(run.summary.run_id, 1), oom_killed=True)
        await knit.final(run.summary.run_id)
        [run] = await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan.summary.plan_id})))
        assert run.notes == (oom_note(),)
        assert run.summary.status is (RunStatus.FAILED if fails else RunStatus.DONE)
        assert run.summary.exit == (OOM_KILLED if fails else SUCCEEDED)
        events = await knit.store.runs.events(run.summary.run_id)
        assert f"run pod ended; {oom_note()}" in [event.cause for event in events]


@pytest.mark.parametrize(
    "wait", [pytest.param(timedelta(), marks=pytest.mark.patient), timedelta(minutes=1)]
)
async def test_a_pod_with_containers_left_is_gone_before_its_run_is_done(
    postgres: EmbeddedPostgres, wait: timedelta
) -> None:
    """The Run has the outcome of its program; nothing can write any more when it is final."""

    class Watched(MemoryBackend):
        stopped_at: RunStatus | None = None

        async def stop(self, pod_name: str, *, grace: timedelta) -> None:
            self.stopped_at = (await knit.store.runs.get(run.summary.run_id)).summary.status
            await super().stop(pod_name, grace=grace)

    engine = QUICK.model_copy(update={"short_run_wait": wait})
    backend = Watched()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        backend.finish(names.run_pod(run.summary.run_id, 1), lingering=True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE
        assert backend.stopped_at is RunStatus.COMPLETING


@pytest.mark.parametrize(
    "wait", [pytest.param(timedelta(), marks=pytest.mark.patient), timedelta(minutes=1)]
)
@pytest.mark.parametrize("what", ["output", "log"])
async def test_a_run_whose_volume_somebody_deletes_is_never_done_without_it(
    postgres: EmbeddedPostgres, wait: timedelta, what: str
) -> None:
    """Its program knows nothing of it, and ends well. A log alone is no reason to fail."""
    engine = QUICK.model_copy(update={"short_run_wait": wait})
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        spec = await knit.store.execution.spec(RunKey(run.summary.run_id, 1))
        volume = spec.outputs[0].volume if what == "output" else spec.log
        assert volume is not None
        await backend.delete_volume(volume)
        backend.finish(names.run_pod(run.summary.run_id, 1))
        await knit.final(run.summary.run_id)
        [run] = await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan.summary.plan_id})))
        said = f"somebody has deleted the volume {volume.name} before the Run ended"
        if what == "output":
            assert run.summary.status is RunStatus.FAILED
            assert run.summary.exit == Exit(254, f"no {spec.outputs[0].path}: {said}")
        else:
            assert (run.summary.status, run.summary.exit) == (RunStatus.DONE, SUCCEEDED)
            assert run.notes == (f"the log is gone: {said}",)


async def test_what_the_back_end_warns_of_is_noted_with_what_comes_later(
    postgres: EmbeddedPostgres,
) -> None:
    """In the history at the launch; and both stay on the Run."""

    class Warning(MemoryBackend):
        async def launch(self, pod: RunPod) -> Launch:
            made = await super().launch(pod)
            return replace(made, warnings=("would violate PodSecurity",))

    backend = Warning()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        run = await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        warned = "warning of the back-end: would violate PodSecurity"
        assert run.notes == (warned,)
        events = await knit.store.runs.events(run.summary.run_id)
        assert f"run pod requested; {warned}" in [event.cause for event in events]
        backend.finish(names.run_pod(run.summary.run_id, 1), oom_killed=True)
        assert (await knit.final(run.summary.run_id)).notes == (warned, oom_note())


@pytest.mark.patient
async def test_a_run_that_an_attempt_before_has_ended_is_told_as_it_ended(
    postgres: EmbeddedPostgres,
) -> None:
    """That attempt was cut while it removed the pod: what is left of it looks like a deletion."""

    class Cut(MemoryBackend):
        cut = False

        async def release(self, pod_name: str) -> None:
            if not self.cut:
                self.cut = True
                raise BackendUnavailable("the connection was cut")
            await super().release(pod_name)

        async def watch(self, pod_name: str) -> AsyncGenerator[Observation, None]:
            if self.cut:
                yield Observation(Phase.FAILED, exit=Exit(254, "deleted while it was running"))
            async for one in super().watch(pod_name):
                yield one

    engine = QUICK.model_copy(update={"short_run_wait": timedelta()})
    async with knit_environment(postgres=postgres, backend=Cut(), engine=engine) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await knit.final(run.summary.run_id)  # which it is not before its workflow is there
        workflow = names.run_workflow(run.summary.run_id, 1)
        handle = knit.temporal.get_workflow_handle_for(RunWorkflow.run, workflow)
        result = await handle.result()
        assert (result.status, result.exit_code) == ("done", None)
