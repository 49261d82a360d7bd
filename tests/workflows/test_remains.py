"""What a lost database leaves is read from a working back-end and Temporal."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

from temporalio import workflow
from temporalio.worker import Worker

from knit_workflows import names
from knit_workflows.contracts.runs import RunResult
from knit_workflows.domain.runs.run import RunDetail, RunQuery, RunStatus, RunSummary
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.inspection.remains import find_remains
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment
from tests.unit.inspection.test_remains import origin
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN, only_run, until_status


async def another(knit: KnitEnvironment, first: RunDetail) -> RunSummary:
    """Waits until the Plan of a Run has another one."""
    plans = frozenset({first.summary.plan.plan_id})
    async with asyncio.timeout(PATIENCE):
        while True:
            for one in await knit.store.runs.find(RunQuery(plan_ids=plans)):
                if one.summary.run_id != first.summary.run_id:
                    return one.summary
            await asyncio.sleep(0.02)


async def test_temporal_says_how_runs_have_ended(postgres: EmbeddedPostgres) -> None:
    """One that still runs is not known to have ended."""
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        pushed = await knit.push({"type": "dataset"})
        ended = await knit.final((await only_run(knit, plan.summary.plan_id)).summary.run_id)
        first = names.run_workflow(ended.summary.run_id, 1)
        await knit.temporal.get_workflow_handle(first).result()
        backend.hold()
        await knit.push({"type": "dataset"})
        other = await another(knit, ended)
        await until_status(knit, other.run_id, RunStatus.RUNNING)
        remains = await find_remains(backend, knit.temporal, set, unknown_is_done=False)
        assert list(remains.plans) == [plan.summary.plan_id]
        assert remains.missing == {"Runs of which nobody knows how they have ended": 1}
        found, lost = remains.runs[ended.summary.run_id], remains.runs[other.run_id]
        exit = ended.summary.exit
        assert exit is not None
        assert (found.status, found.exit_code, found.exit_message) == (
            ended.summary.status, exit.code, exit.message,
        )  # fmt: skip
        assert found.ended is not None
        assert abs(found.ended - ended.summary.updated_at) < timedelta(seconds=PATIENCE)
        assert (lost.status, lost.known) == (RunStatus.FAILED, False)
        assert len(remains.uploads()) == 2, pushed
        waits = Volume(names.volume(str(uuid.uuid4())), "")
        await backend.create_volume(waits)
        without = await find_remains(
            backend, knit.temporal, lambda: {waits.name}, unknown_is_done=False
        )
        assert without.uploads() == remains.uploads()

        trusting = await find_remains(backend, knit.temporal, set, unknown_is_done=True)
        assert trusting.runs[other.run_id].status is RunStatus.FAILED, "it runs"
        await knit.temporal.get_workflow_handle(names.run_workflow(other.run_id, 1)).terminate()
        trusting = await find_remains(backend, knit.temporal, set, unknown_is_done=True)
        assert trusting.runs[other.run_id].status is RunStatus.FAILED, "it was ended"


@workflow.defn(name=names.RUN_WORKFLOW, sandboxed=False)
class Ended:
    """Ends as it is told."""

    @workflow.run
    async def run(self, status: str) -> RunResult:
        """Gives it."""
        return RunResult(status=status)


async def test_only_what_temporal_has_forgotten_is_taken_for_done(
    postgres: EmbeddedPostgres,
) -> None:
    expected = {
        "done": RunStatus.DONE, "failed": RunStatus.FAILED, "superseded": RunStatus.FAILED,
        "forgotten": RunStatus.DONE, "terminated": RunStatus.FAILED,
    }  # fmt: skip
    backend = MemoryBackend()
    ids = {one: str(uuid.uuid4()) for one in expected}
    async with knit_environment(postgres=postgres, backend=backend, work=False) as knit:
        for run_id in ids.values():
            made = str(uuid.uuid4())
            told = origin(run_id, str(uuid.uuid4()), [made])
            await backend.create_volume(Volume(names.volume(made), made, origin=told))
        queue = str(uuid.uuid4())
        async with Worker(knit.temporal, task_queue=queue, workflows=[Ended]):
            for one in ("done", "failed", "superseded"):
                key = names.run_workflow(ids[one], 1)
                await knit.temporal.execute_workflow(Ended.run, one, id=key, task_queue=queue)
        key = names.run_workflow(ids["terminated"], 1)
        await knit.temporal.start_workflow(Ended.run, "done", id=key, task_queue=queue)
        await knit.temporal.get_workflow_handle(key).terminate()
        remains = await find_remains(backend, knit.temporal, set, unknown_is_done=True)
    assert {one: remains.runs[run_id].status for one, run_id in ids.items()} == expected
