"""The test of a hook, on a real server and over real HTTP; and how a Run hears of a skip."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer as Server
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from knit_workflows import client, names
from knit_workflows.activities.hooks.hook_test import SAMPLE_RUN
from knit_workflows.domain.errors import EngineUnavailable, Unavailable
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import Role
from knit_workflows.settings import HookSettings
from knit_workflows.temporal.queue_state import queue_state
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import workers
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN, only_run, until_status

LOCAL = HookSettings(allow_loopback=True, proxies=False)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def receiver(handle: Handler) -> AsyncIterator[str]:
    """A hook that answers like this; gives its URL."""
    app = web.Application()
    app.router.add_post("/hook", handle)
    async with Server(app) as server:
        yield str(server.make_url("/hook"))


@asynccontextmanager
async def only_hooks(postgres: EmbeddedPostgres) -> AsyncIterator[KnitEnvironment]:
    """A knit whose one worker calls hooks and does nothing else."""
    async with knit_environment(postgres=postgres, hooks=LOCAL, work=False) as knit:
        (worker,) = workers(knit.temporal, knit.deps, frozenset({Role.HOOKS}))
        async with worker:
            await until_hooks_are_called(knit)
            yield knit


async def until_hooks_are_called(knit: KnitEnvironment) -> None:
    """Waits until there is a worker that calls hooks: a test of one does not wait for long."""
    async with asyncio.timeout(PATIENCE):
        while not (await queue_state(knit.temporal, knit.deps.queues.hooks)).workers:
            await asyncio.sleep(0.05)


async def test_a_hook_is_called_once_with_the_body_of_a_sample_run(
    postgres: EmbeddedPostgres,
) -> None:
    """As for a Run; of the environment that it wants only names are kept."""
    bodies: list[Any] = []
    ids: set[str] = set()

    async def handle(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        ids.add(request.headers.get("webhook-id", ""))
        env = {"TOKEN": "s3cret", "MODE": "strict"}
        return web.json_response({"knitfabExtension": {"env": env}})

    async with only_hooks(postgres) as knit, receiver(handle) as url:
        before = await knit.knit.test_hook(url, HookPhase.BEFORE)
        after = await knit.knit.test_hook(url, HookPhase.AFTER)
    assert (before.succeeded, before.status_code) == (True, 200)
    assert sorted(before.environment) == ["MODE", "TOKEN"]
    assert "TOKEN" in before.text
    assert "s3cret" not in before.text + after.text
    assert after.environment == ()
    assert [body["status"] for body in bodies] == ["ready", "starting"]
    assert {body["runId"] for body in bodies} == {SAMPLE_RUN}
    step = {"from": "ready", "to": "starting", "generation": 1, "attempt": 1}
    assert [body["transition"] for body in bodies] == [step] * 2
    assert json.dumps(bodies[0]["plan"]["annotations"]) == '["knit=hook-test"]'


async def test_what_a_hook_answers_is_the_result(postgres: EmbeddedPostgres) -> None:
    """It is called once, however it fails."""
    calls = 0

    async def handle(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=503, text="not today")

    async with only_hooks(postgres) as knit, receiver(handle) as url:
        refused = await knit.knit.test_hook(url, HookPhase.BEFORE)
        away = await knit.knit.test_hook("http://127.0.0.1:9/", HookPhase.BEFORE)
    assert (refused.succeeded, refused.status_code, calls) == (False, 503, 1)
    assert "not today" in refused.text
    assert (away.succeeded, away.status_code) == (False, None)
    assert away.text


async def test_without_a_worker_for_hooks_the_test_says_so_at_once(
    postgres: EmbeddedPostgres,
) -> None:
    """Others are there, and no workflow is started that nobody would carry out."""
    async with knit_environment(postgres=postgres, work=False) as knit:
        (worker,) = workers(knit.temporal, knit.deps, frozenset({Role.ENGINE}))
        async with worker:
            with pytest.raises(EngineUnavailable, match="no worker is up that calls hooks") as told:
                await knit.knit.test_hook("http://127.0.0.1:9/", HookPhase.BEFORE)
        assert "the role hooks" in told.value.advice
        query = f"WorkflowType = '{names.HOOK_TEST_WORKFLOW}'"
        assert [one.id async for one in knit.temporal.list_workflows(query)] == []


async def test_a_test_that_is_ended_by_hand_says_so(postgres: EmbeddedPostgres) -> None:
    called, free = asyncio.Event(), asyncio.Event()

    async def handle(_: web.Request) -> web.Response:
        called.set()
        await free.wait()
        return web.Response()

    async with only_hooks(postgres) as knit, receiver(handle) as url:
        test = asyncio.ensure_future(knit.knit.test_hook(url, HookPhase.BEFORE))
        await asyncio.wait_for(called.wait(), PATIENCE)
        query = f"WorkflowType = '{names.HOOK_TEST_WORKFLOW}'"
        async with asyncio.timeout(PATIENCE):
            while not (found := [one async for one in knit.temporal.list_workflows(query)]):
                await asyncio.sleep(0.05)
        await knit.temporal.get_workflow_handle(found[0].id).terminate("by hand")
        with pytest.raises(Unavailable, match="cannot be tested"):
            await test
        free.set()


async def _signals(handle: WorkflowHandle[Any, Any]) -> list[str]:
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        async for event in handle.fetch_history_events()
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]


async def test_a_run_is_told_that_a_hook_was_skipped(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose workflow is over, or never was, needs no word."""
    monkeypatch.setattr(client, "PROMPT", timedelta(seconds=PATIENCE))
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = await only_run(knit, plan.summary.plan_id)
        await until_status(knit, run.summary.run_id, RunStatus.RUNNING)
        await knit.knit.hook_skipped(run.summary.run_id, 1)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        async with asyncio.timeout(PATIENCE):
            # Temporal holds signals back while a workflow launches its Run in its own task.
            while "hook_skipped" not in await _signals(handle):
                await asyncio.sleep(0.05)
        backend.finish(names.run_pod(run.summary.run_id, 1))
        await knit.final(run.summary.run_id)
        async with asyncio.timeout(PATIENCE):
            while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await asyncio.sleep(0.05)
        await knit.knit.hook_skipped(run.summary.run_id, 1)
        await knit.knit.hook_skipped(RunId(str(uuid4())), 1)
