"""A Run that waits for a hook for long: nothing is lost meanwhile, and nobody else waits."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from knit_workflows import names
from knit_workflows.compute.base import Launch, RunPod
from knit_workflows.domain.errors import BackendRejected, IllegalMove
from knit_workflows.domain.hooks import DeliveryQuery, Hooks
from knit_workflows.domain.runs.run import SUCCEEDED, RunDetail, RunQuery, RunStatus, WaitKind
from knit_workflows.embedded import EmbeddedPostgres, dev_server_settings
from knit_workflows.plugin import ALL_ROLES, Role
from knit_workflows.provision.temporal_cli import obtain_temporal
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import workers
from tests.receiver import AGREED, Answer, Call, Receiver, receiver
from tests.waiting import PATIENCE, until
from tests.workflows.test_hooks import (
    SETTINGS,
    WHOLE,
    closed,
    hooked,
    one_run,
    refuses,
    waits_for_hook,
)
from tests.workflows.test_run import TRAIN

MANY = 30
LONG_HISTORY = 25
"""Events, after which Temporal suggests another execution: here at every second try."""


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as serving:
        yield serving


class Hanging:
    """Does not answer calls for which `wanted` holds until it is let go."""

    def __init__(self, hooks: Receiver) -> None:
        self.calls: list[Call] = []
        self._one_at_a_time = threading.Lock()
        self._go_on = threading.Event()
        self.wanted: Callable[[Call], bool] = lambda call: True
        hooks.answer = self._answer

    def let_go(self) -> None:
        """Answers them, and later ones at once."""
        self._go_on.set()

    def _answer(self, call: Call) -> Answer:
        with self._one_at_a_time:
            hangs = self.wanted(call) and not self._go_on.is_set()
            if hangs:
                self.calls.append(call)
        if hangs:
            self._go_on.wait(PATIENCE)
        return AGREED


# ---------------------------------------------------------------- many Runs, one that hangs


async def many_runs(knit: KnitEnvironment) -> list[RunDetail]:
    """Has many Runs of one Plan."""
    for _ in range(MANY):
        await knit.push({"type": "dataset"})
    plan = await knit.apply(TRAIN)
    query = RunQuery(plan_ids=frozenset({plan.summary.plan_id}))
    async with asyncio.timeout(PATIENCE):
        while len(found := await knit.store.runs.find(query)) < MANY:
            await asyncio.sleep(0.05)
    return list(found)


async def test_a_hanging_before_hook_delays_its_run_only(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    async with hooked(postgres, hooks) as knit:
        hanging = Hanging(hooks)
        hanging.wanted = lambda call: (
            call.body["runId"] in {one.body["runId"] for one in hanging.calls or [call]}
        )
        runs = await many_runs(knit)
        await until(lambda: hanging.calls)
        held = hanging.calls[0].body["runId"]
        others = [run.summary.run_id for run in runs if run.summary.run_id != held]
        assert len(others) == MANY - 1
        for run_id in others:
            assert (await knit.final(run_id)).summary.status is RunStatus.DONE
        [one] = [run for run in runs if run.summary.run_id == held]
        shown = await knit.store.runs.get(one.summary.run_id)
        assert shown.summary.status is RunStatus.WAITING
        hanging.let_go()
        assert (await knit.final(one.summary.run_id)).summary.status is RunStatus.DONE


async def test_an_after_hook_that_never_answers_delays_nobody(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """Not even those that ask another hook before each of their transitions."""
    async with hooked(postgres, hooks) as knit:
        hanging = Hanging(hooks)
        hanging.wanted = lambda call: call.path == "/after"
        runs = await many_runs(knit)
        for run in runs:
            assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE
        assert hanging.calls
        hanging.let_go()
        for run in runs:
            handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
            await handle.result()


# ---------------------------------------------------------------- long histories


@asynccontextmanager
async def short_histories() -> AsyncIterator[Client]:
    """A Temporal server that suggests a new execution after a few events."""
    limit = f"limit.historyCount.suggestContinueAsNew={LONG_HISTORY}"
    server = await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(await asyncio.to_thread(obtain_temporal)),
        dev_server_extra_args=[
            *dev_server_settings(file_database=False),
            *("--dynamic-config-value", limit),
        ],
        dev_server_log_level="error",
    )
    try:
        yield server.client
    finally:
        await server.shutdown()


async def first_execution(knit: KnitEnvironment, run: RunDetail) -> WorkflowHandle[object, object]:
    """Gives the first execution of a Run's workflow, once it has gone on as another one."""
    workflow_id = names.run_workflow(run.summary.run_id, 1)
    found = await knit.temporal.get_workflow_handle(workflow_id).describe()
    first = knit.temporal.get_workflow_handle(workflow_id, run_id=found.raw_info.first_run_id)
    async with asyncio.timeout(PATIENCE):
        while True:
            events = (await first.fetch_history()).events
            last = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
            if events and events[-1].event_type == last:
                return first
            await asyncio.sleep(0.1)


@asynccontextmanager
async def waits_for_long(
    postgres: EmbeddedPostgres, hooks: Receiver, target: str, backend: MemoryBackend | None = None
) -> AsyncIterator[tuple[KnitEnvironment, MemoryBackend, RunDetail]]:
    """A Run whose workflow has gone on as another execution while it waits for a hook."""
    hooks.answer = refuses(target)
    backend = backend or MemoryBackend()
    if target == "running":
        backend.hold()
    async with (
        short_histories() as client,
        knit_environment(postgres=postgres, backend=backend, client=client, hooks=SETTINGS) as knit,
    ):
        await knit.store.hooks.configure(Hooks((hooks.url("/before"),), (hooks.url("/after"),)))
        run = await one_run(knit)
        await waits_for_hook(knit, run)  # its workflow has been started by then
        await first_execution(knit, run)
        yield knit, backend, run


@pytest.mark.parametrize("target", ["ready", "running", "completing"])
async def test_a_long_wait_goes_on_in_another_execution(
    postgres: EmbeddedPostgres, hooks: Receiver, target: str
) -> None:
    """The attempts go on counting, and no transition is told twice."""
    async with waits_for_long(postgres, hooks, target) as (knit, backend, run):
        asked = [c for c in hooks.calls if c.path == "/before" and c.transition[1] == target]
        so_far = len(asked)
        await until(lambda: len(hooks.calls) > so_far)
        hooks.answer = lambda _: AGREED
        if target == "running":
            backend.finish(names.run_pod(run.summary.run_id, 1))
        final = await knit.final(run.summary.run_id)
        assert final.summary.status is RunStatus.DONE
        await closed(knit, run)
        asked = [c for c in hooks.calls if c.path == "/before" and c.transition[1] == target]
        numbers = [call.body["transition"]["attempt"] for call in asked]
        assert len(numbers) > so_far
        assert numbers == list(range(1, len(numbers) + 1))
        told = hooks.transitions("/after")
        assert len(told) == len(set(told)) == 5
        tries = [one.attempts for one in await knit.store.hooks.find(DeliveryQuery())]
        assert max(tries) == len(numbers)


async def test_a_refused_run_does_not_start_once_more(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """That its pod was refused is known to the next execution; the hooks had agreed to a start."""

    class Refusing(MemoryBackend):
        async def launch(self, pod: RunPod) -> Launch:
            raise BackendRejected("no such node")

    async with waits_for_long(postgres, hooks, "aborting", Refusing()) as (knit, _, run):
        hooks.answer = lambda _: AGREED
        final = await knit.final(run.summary.run_id)
        assert final.summary.exit is not None
        assert "no such node" in final.summary.exit.message
        await closed(knit, run)
        asked = list(dict.fromkeys(hooks.transitions("/before")))
        assert asked == [*WHOLE[:2], ("ready", "aborting"), ("aborting", "failed")]
        assert hooks.transitions("/before").count(WHOLE[1]) == 1


async def test_what_was_seen_of_a_pod_is_remembered_when_it_is_gone(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """It has succeeded, however long its hooks take to agree, and whatever becomes of the pod."""
    async with waits_for_long(postgres, hooks, "completing") as (knit, backend, run):
        backend.lose(names.run_pod(run.summary.run_id, 1))
        hooks.answer = lambda _: AGREED
        final = await knit.final(run.summary.run_id)
        assert (final.summary.status, final.summary.exit) == (RunStatus.DONE, SUCCEEDED)
        await closed(knit, run)
        workflow = names.run_workflow(run.summary.run_id, 1)
        result = await knit.temporal.get_workflow_handle(workflow).result()
        assert (result["status"], result["exit_code"]) == ("done", 0)
        assert hooks.transitions("/after") == WHOLE


async def test_a_stop_after_a_long_wait(postgres: EmbeddedPostgres, hooks: Receiver) -> None:
    async with waits_for_long(postgres, hooks, "starting") as (knit, _, run):
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED
        await closed(knit, run)
        assert hooks.transitions("/after")[-1] == ("aborting", "failed")


async def test_a_long_wait_does_not_wait_for_after_hooks(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """An After hook hangs when the history gets long; a stop goes through nevertheless."""
    hanging = Hanging(hooks)
    hanging.wanted = lambda call: call.path == "/after"
    agreed_or_hangs = hooks.answer
    hooks.answer = lambda call: (
        refuses("starting")(call) if call.path == "/before" else agreed_or_hangs(call)
    )
    async with (
        short_histories() as client,
        knit_environment(postgres=postgres, client=client, hooks=SETTINGS) as knit,
    ):
        await knit.store.hooks.configure(Hooks((hooks.url("/before"),), (hooks.url("/after"),)))
        run = await one_run(knit)
        await waits_for_hook(knit, run)  # its workflow has been started by then
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        async with asyncio.timeout(PATIENCE):
            while (await handle.describe()).history_length < 2 * LONG_HISTORY:
                await asyncio.sleep(0.1)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED
        hanging.let_go()
        await closed(knit, run)


# ---------------------------------------------------------------- what users do meanwhile


async def test_a_run_that_waits_is_neither_retried_nor_deleted(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hooks.answer = refuses("done")
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        await waits_for_hook(knit, run)
        for change in (knit.store.runs.retry, knit.store.runs.delete):
            with pytest.raises(IllegalMove):
                await change(run.summary.run_id)
        hooks.answer = lambda _: AGREED
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


@pytest.mark.parametrize("how", ["retry", "delete"])
async def test_an_ended_run_is_changed_while_its_end_is_told(
    postgres: EmbeddedPostgres, hooks: Receiver, how: str
) -> None:
    """A retry asks and tells its hooks anew; what belongs to the former generation ends."""
    hanging = Hanging(hooks)
    hanging.wanted = lambda call: call.path == "/after" and call.transition[1] == "completing"
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        run_id = run.summary.run_id
        assert (await knit.final(run_id)).summary.status is RunStatus.DONE
        await until(lambda: hanging.calls)
        first = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        if how == "delete":
            await knit.store.runs.delete(run_id)
        else:
            await knit.store.runs.retry(run_id)
            assert (await knit.final(run_id)).summary.status is RunStatus.DONE
        hanging.let_go()
        async with asyncio.timeout(PATIENCE):
            await first.result()
        if how == "retry":
            again = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 2))
            async with asyncio.timeout(PATIENCE):
                await again.result()
            for path in ("/before", "/after"):
                seen = [
                    (call.body["transition"]["generation"], *call.transition)
                    for call in hooks.calls
                    if call.path == path
                ]
                assert len(seen) == len(set(seen))
                assert len([one for one in seen if one[0] == 2]) == 5


async def test_its_plan_is_deactivated_meanwhile(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """It is no longer asked for; once the Plan is active again it is another generation's turn."""
    hooks.answer = refuses("ready")
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        await waits_for_hook(knit, run)
        await knit.store.plans.set_active(run.summary.plan.plan_id, False)
        shown = await knit.store.runs.get(run.summary.run_id)
        assert shown.summary.status is RunStatus.DEACTIVATED
        workflow = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        async with asyncio.timeout(PATIENCE):
            result = await workflow.result()
        assert result["status"] == "superseded"
        assert {call.transition for call in hooks.calls} == {("waiting", "ready")}
        hooks.calls.clear()
        hooks.answer = lambda _: AGREED
        await knit.store.plans.set_active(run.summary.plan.plan_id, True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE
        generations = {call.body["transition"]["generation"] for call in hooks.calls}
        assert generations == {2}


# ---------------------------------------------------------------- the worker of hooks is away


async def test_without_a_worker_for_hooks_runs_wait_and_say_so(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    async with (
        knit_environment(postgres=postgres, hooks=SETTINGS, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        for worker in workers(knit.temporal, knit.deps, ALL_ROLES - {Role.HOOKS}):
            await stack.enter_async_context(worker)
        await knit.store.hooks.configure(Hooks((hooks.url("/before"),), (hooks.url("/after"),)))
        run = await one_run(knit)
        await _asks(knit, run)
        await _as_if_a_minute_ago(knit, run)
        shown = await knit.store.runs.get(run.summary.run_id)
        assert shown.waiting is not None
        assert shown.waiting.kind is WaitKind.WORKER
        assert shown.waiting.reason.startswith("no worker says what its hooks answer")
        for worker in workers(knit.temporal, knit.deps, frozenset({Role.HOOKS})):
            await stack.enter_async_context(worker)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE
        await closed(knit, run)


async def test_a_run_whose_hook_has_not_answered_yet_says_so(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """Not that a worker is missing: there is one, and it waits for the answer."""
    hanging = Hanging(hooks)
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        await until(lambda: hanging.calls)
        await _as_if_a_minute_ago(knit, run)
        shown = await knit.store.runs.get(run.summary.run_id)
        assert shown.waiting is not None
        assert shown.waiting.kind is WaitKind.HOOK
        assert shown.waiting.hook is not None
        assert shown.waiting.hook.url == hooks.url("/before")
        # The latter once it has not answered for a while.
        assert re.search("has not (answered|agreed)", shown.waiting.reason)
        hanging.let_go()
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


async def _asks(knit: KnitEnvironment, run: RunDetail) -> None:
    """Waits until a call of the Run's hooks has been scheduled."""
    handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(RPCError):  # The workflow is not there yet.
                pending = (await handle.describe()).raw_description.pending_activities
                if "knit.call_before_hooks" in {one.activity_type.name for one in pending}:
                    return
            await asyncio.sleep(0.05)


async def _as_if_a_minute_ago(knit: KnitEnvironment, run: RunDetail) -> None:
    """Has the Run's workflow started, and the Run changed, a minute earlier than they did."""
    earlier = (
        "UPDATE run SET workflow_started_at = workflow_started_at - interval '1 minute',"
        " updated_at = updated_at - interval '1 minute'"
        " WHERE run_id = %s AND workflow_started_at IS NOT NULL"
    )
    async with (
        await psycopg.AsyncConnection.connect(knit.url, autocommit=True) as connection,
        asyncio.timeout(PATIENCE),
    ):
        # The workflow may do much before it is noted that it was started.
        while (await connection.execute(earlier, (run.summary.run_id,))).rowcount == 0:
            await asyncio.sleep(0.05)
