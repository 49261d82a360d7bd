"""Temporal has lost everything: its database, its namespace. Postgres has not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from knit_workflows import names
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, Deps
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment, temporal
from knit_workflows.worker import workers
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN, only_run, until_status

PATIENT = QUICK.model_copy(
    update={"gc_interval": timedelta(hours=1), "gc_grace_period": timedelta(hours=1)}
)
"""Whatever happens within the test, the usual reconciliation has no hand in it."""


async def test_runs_and_uploads_under_way_end_in_a_new_temporal(postgres: EmbeddedPostgres) -> None:
    """The pod that runs is found again and started once; a stop is carried out; an upload fails."""
    backend = MemoryBackend()
    backend.hold()
    async with AsyncExitStack() as stack:
        async with knit_environment(postgres=postgres, backend=backend, engine=PATIENT) as knit:
            plan = await knit.apply(TRAIN)
            await knit.push({"type": "dataset"})
            running = (await only_run(knit, plan.summary.plan_id)).summary.run_id
            await until_status(knit, running, RunStatus.RUNNING)
            other = await knit.apply({**TRAIN, "image": "example/other:v1"})
            stopped = (await only_run(knit, other.summary.plan_id)).summary.run_id
            await until_status(knit, stopped, RunStatus.RUNNING)
            upload = await knit.knit.open_upload()
            url = knit.url
        client = await stack.enter_async_context(temporal())
        deps = Deps(
            PostgresStore(StoreSettings(url=SecretStr(url))),
            backend,
            engine=PATIENT,
            queues=QueueSettings(compute="knit"),
        )
        await stack.enter_async_context(deps.opened())
        await deps.store.runs.stop(stopped, fail=True)
        for worker in workers(client, deps, ALL_ROLES):
            await stack.enter_async_context(worker)
        wait = deps.store.runs.wait_final
        async with asyncio.timeout(PATIENCE):
            failed = await wait(stopped, fallback=timedelta(seconds=1))
            assert upload.run_id is not None
            broken = await wait(upload.run_id, fallback=timedelta(seconds=1))
            backend.finish(names.run_pod(running, 1))
            done = await wait(running, fallback=timedelta(seconds=1))
            again = client.get_workflow_handle(names.run_workflow(running, 1))
            assert (await again.result())["status"] == RunStatus.DONE
        assert done.summary.status is RunStatus.DONE
        assert failed.summary.status is broken.summary.status is RunStatus.FAILED
        assert sorted(backend.launches) == sorted(
            names.run_pod(one, 1) for one in (running, stopped)
        )
        await KnitEnvironment(client, deps, url).kept()
        projector = client.get_workflow_handle(names.projector_workflow(0))
        assert (await projector.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_workers_that_stay_up_notice_the_loss(postgres: EmbeddedPostgres) -> None:
    """As behind an address where Temporal comes back with an empty database."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=PATIENT) as knit:
        await knit.kept()
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run_id = (await only_run(knit, plan.summary.plan_id)).summary.run_id
        await until_status(knit, run_id, RunStatus.RUNNING)
        run = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        await run.terminate("lost")
        projector = knit.temporal.get_workflow_handle(names.projector_workflow(0))
        await projector.terminate("lost")
        for schedule in (names.GC_WORKFLOW, names.HOUSEKEEPING_WORKFLOW):
            await knit.temporal.get_schedule_handle(schedule).delete()
        async with asyncio.timeout(PATIENCE):
            while (await run.describe()).status is not WorkflowExecutionStatus.RUNNING:
                await asyncio.sleep(0.05)
        backend.finish(names.run_pod(run_id, 1))
        assert (await knit.final(run_id)).summary.status is RunStatus.DONE
        assert backend.launches == [names.run_pod(run_id, 1)]


async def test_a_temporal_that_is_new_to_an_idle_knit_recovers_nothing(
    postgres: EmbeddedPostgres,
) -> None:
    async with knit_environment(postgres=postgres, engine=PATIENT) as knit:
        await knit.kept()
        await knit.push({"type": "dataset"})
        described = [one.id async for one in knit.temporal.list_workflows()]
        assert names.RECOVERY_WORKFLOW not in described


async def test_a_schedule_that_somebody_deletes_is_made_again(postgres: EmbeddedPostgres) -> None:
    """Temporal has lost nothing else, so nothing is recovered, although an upload is under way."""
    async with knit_environment(postgres=postgres, engine=PATIENT) as knit:
        await knit.kept()
        await knit.knit.open_upload()
        await knit.temporal.get_schedule_handle(names.GC_WORKFLOW).delete()
        await knit.kept()
        with pytest.raises(RPCError, match="not found"):
            await knit.temporal.get_workflow_handle(names.RECOVERY_WORKFLOW).describe()
