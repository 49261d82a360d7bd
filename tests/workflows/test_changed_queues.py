"""Queues that are changed on an installation: its Projector, which never ends, goes along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from knit_workflows import names
from knit_workflows.activities import run_starter
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, Deps
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.testing import QUICK, KnitEnvironment, knit_environment
from knit_workflows.worker import workers
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN


@asynccontextmanager
async def working(knit: KnitEnvironment, **queues: str) -> AsyncIterator[None]:
    """Keeps workers with these queues on an installation while inside."""
    deps = Deps(
        PostgresStore(StoreSettings(url=SecretStr(knit.url))),
        knit.backend,
        engine=QUICK,
        queues=QueueSettings(**queues),
    )
    # As another process has; with the same one, no two workers may share a queue.
    client = await Client.connect(
        knit.temporal.service_client.config.target_host, data_converter=pydantic_data_converter
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(deps.opened())
        for worker in workers(client, deps, ALL_ROLES):
            await stack.enter_async_context(worker)
        yield


async def queue_of_projector(knit: KnitEnvironment) -> str:
    """Gives the task queue that the Projector is on."""
    projector = knit.temporal.get_workflow_handle(names.projector_workflow(0))
    return (await projector.describe()).task_queue


async def a_run_ends(knit: KnitEnvironment, image: str) -> None:
    """Applies a Plan, and pushes what its Run takes; waits for the Run."""
    plan = await knit.apply({**TRAIN, "image": image})
    await knit.push({"type": "dataset"})
    runs = await knit.runs_of(plan.summary.plan_id, 1)
    assert {run.summary.status for run in runs} == {RunStatus.DONE}


async def test_the_projector_goes_to_a_new_engine_queue_when_the_old_one_is_left(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: during a rolling change, workers of both settings would take it in turns."""
    monkeypatch.setattr(run_starter, "_TAKEN_WITHIN", timedelta(seconds=1))
    async with knit_environment(postgres=postgres, work=False) as knit, AsyncExitStack() as new:
        async with working(knit, engine="a"):
            await a_run_ends(knit, "example/one:v1")
            await new.enter_async_context(working(knit, engine="b"))
            await asyncio.sleep(2 * QUICK.poll_interval.total_seconds())
            assert await queue_of_projector(knit) == "a"
        async with asyncio.timeout(PATIENCE):
            while await queue_of_projector(knit) != "b":
                await asyncio.sleep(0.1)
        await a_run_ends(knit, "example/two:v1")


async def test_runs_go_to_the_queues_of_the_workers_that_are_there(
    postgres: EmbeddedPostgres,
) -> None:
    """Although the Projector was started by workers with others."""
    async with knit_environment(postgres=postgres, work=False) as knit:
        async with working(knit, compute="a"):
            await a_run_ends(knit, "example/one:v1")
        async with working(knit, compute="b"):
            await a_run_ends(knit, "example/two:v1")
