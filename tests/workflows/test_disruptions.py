"""Runs whose pods are taken away through no fault of their programs', on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from knit_workflows import names
from knit_workflows.compute.base import Observation, Phase
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.hooks import Hooks
from knit_workflows.domain.ports import Relaunched, RunKey
from knit_workflows.domain.runs.run import ABORTED_BY_USER, KNIT, Exit, RunDetail, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, Role
from knit_workflows.store.runs.execution import PostgresRunExecutionStore
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import workers
from knit_workflows.workflows import run as workflow_of_runs
from tests.receiver import receiver
from tests.waiting import PATIENCE
from tests.workflows.test_hooks import SETTINGS
from tests.workflows.test_run import TRAIN, only_run, until_status

EVICTED = "EvictionByEvictionAPI: evicting"
INTERRUPTED = Exit(143, "(container main) killed by signal 15 (SIGTERM)")
WHOLE = ["waiting", "ready", "starting", "running", "completing", "done"]


class Held(MemoryBackend):
    """Its pods run until they are ended; a stopped one goes when `may_go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hold()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.told_to_go = asyncio.Event()

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        self.told_to_go.set()
        if self.may_go.is_set():
            await super().stop(pod_name, grace=grace)

    def evict(self, run: RunDetail, generation: int = 1) -> None:
        pod = names.run_pod(run.summary.run_id, generation)
        self.finish(pod, INTERRUPTED, disruption=EVICTED)


async def running(knit: KnitEnvironment, more: dict[str, object] | None = None) -> RunDetail:
    plan = await knit.apply(TRAIN | (more or {}))
    await knit.push({"type": "dataset"})
    run = await only_run(knit, plan.summary.plan_id)
    return await until_status(knit, run.summary.run_id, RunStatus.RUNNING)


async def generation_runs(knit: KnitEnvironment, run: RunDetail, generation: int) -> RunDetail:
    async with asyncio.timeout(PATIENCE):
        while True:
            now = await knit.store.runs.get(run.summary.run_id)
            if (now.generation, now.summary.status) == (generation, RunStatus.RUNNING):
                return now
            await asyncio.sleep(0.01)


async def waits(knit: KnitEnvironment, run: RunDetail, code: str) -> RunDetail:
    async with asyncio.timeout(PATIENCE):
        while True:
            now = await knit.store.runs.get(run.summary.run_id)
            if now.waiting is not None and now.waiting.code == code:
                return now
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "wait", [timedelta(), pytest.param(timedelta(minutes=1), marks=pytest.mark.patient)]
)
async def test_a_disrupted_run_is_launched_again(
    postgres: EmbeddedPostgres, wait: timedelta
) -> None:
    """With new Data, when the old pod is gone; it never shows as failed, and every try is told."""
    backend = Held()
    engine = QUICK.model_copy(update={"short_run_wait": wait})
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        first = await running(knit)
        run_id = first.summary.run_id
        backend.may_go.clear()
        backend.take_away(names.run_pod(run_id, 1), EVICTED)
        shown = await waits(knit, first, "Disrupted")
        assert shown.summary.status is RunStatus.RUNNING
        assert shown.waiting is not None
        told = (
            f"its pod is being taken away ({EVICTED}), and its node has not confirmed its end yet"
        )
        assert shown.waiting.reason == told
        backend.evict(first)
        async with asyncio.timeout(PATIENCE):
            await backend.told_to_go.wait()
        assert backend.launches == [names.run_pod(run_id, 1)]  # its pod is still there
        backend.may_go.set()
        await backend.stop(names.run_pod(run_id, 1), grace=timedelta())
        second = await generation_runs(knit, first, 2)
        assert second.inputs == first.inputs
        old, new = ({one.knit_id for one in run.outputs} for run in (first, second))
        assert not old & new
        backend.finish(names.run_pod(run_id, 2))
        done = await knit.final(run_id)
        assert (done.summary.status, done.notes) == (RunStatus.DONE, ())
        assert backend.launches == [names.run_pod(run_id, 1), names.run_pod(run_id, 2)]
        events = await knit.store.runs.events(run_id)
        moves = [one.to_status for one in events if one.from_status is not one.to_status]
        assert moves == [*WHOLE[:4], *WHOLE]
        [again] = [one for one in events if one.from_status is RunStatus.RUNNING][1:2]
        assert again.cause == f"disrupted: {EVICTED}; launched again, 1 of at most 3 times"
        assert (again.generation, again.actor) == (2, KNIT)
        earlier = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        assert (await earlier.result())["status"] == "superseded"


@pytest.mark.parametrize(
    ("limit", "installed", "own"),
    [
        (0, 0, None),
        (0, 3, 0),
        (1, 0, 1),
        pytest.param(2, 2, None, marks=pytest.mark.patient),
    ],
)
async def test_a_run_that_is_disrupted_too_often_has_failed(
    postgres: EmbeddedPostgres, limit: int, installed: int, own: int | None
) -> None:
    """As its last pod ended; a retry by a user begins to count anew. A Plan's own limit counts."""
    backend = Held()
    engine = QUICK.model_copy(update={"disruption_limit": installed})
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        run = await running(knit, {} if own is None else {"pod": {"relaunches": own}})
        for generation in range(1, limit + 2):
            await generation_runs(knit, run, generation)
            backend.evict(run, generation)
        failed = await knit.final(run.summary.run_id)
        assert (failed.summary.status, failed.summary.exit) == (RunStatus.FAILED, INTERRUPTED)
        causes = [one.cause for one in await knit.store.runs.events(run.summary.run_id)]
        told = f"run pod ended; it was launched again {limit} times already"
        assert (told if limit else "run pod ended") in causes
        if limit:
            await knit.store.runs.retry(run.summary.run_id)
            await generation_runs(knit, run, limit + 2)
            backend.evict(run, limit + 2)
            await generation_runs(knit, run, limit + 3)


@pytest.mark.patient
async def test_a_stop_comes_first_while_the_old_pod_goes(postgres: EmbeddedPostgres) -> None:
    """Whether by a user or by a cancellation in Temporal; the Run is not launched again."""
    backend = Held()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        run = await running(knit)
        backend.may_go.clear()
        backend.evict(run)
        shown = await waits(knit, run, "Disrupted")
        assert shown.waiting is not None
        assert "launched again when that pod is gone" in shown.waiting.reason
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        backend.may_go.set()
        failed = await knit.final(run.summary.run_id)
        assert (failed.summary.exit, failed.generation) == (ABORTED_BY_USER, 1)
        await knit.store.runs.retry(run.summary.run_id)
        await generation_runs(knit, run, 2)
        backend.may_go.clear()
        backend.evict(run, 2)
        await waits(knit, run, "Disrupted")
        await knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 2)).cancel()
        backend.may_go.set()
        failed = await knit.final(run.summary.run_id)
        assert (failed.summary.status, failed.generation) == (RunStatus.FAILED, 2)
        assert len(backend.launches) == 2


async def test_who_reads_its_log_is_waited_for(postgres: EmbeddedPostgres) -> None:
    """What it wrote is discarded only then; the Run says so."""
    backend = Held()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        run = await running(knit)
        assert run.log is not None
        assert run.log.knit_id is not None
        reading = await knit.knit.open_download(run.log.knit_id)
        backend.evict(run)
        shown = await waits(knit, run, "OutputsRead")
        assert shown.generation == 1
        await knit.knit.finish(reading, ok=True)
        await generation_runs(knit, run, 2)


@pytest.mark.patient
async def test_a_pod_that_was_removed_behind_the_watch_is_a_disruption(
    postgres: EmbeddedPostgres,
) -> None:
    """A node that is lost takes its pods with it; only the Job is left."""

    class Lost(Held):
        def _observation(self, pod_name: str) -> Observation:
            seen = super()._observation(pod_name)
            lost = seen.phase is Phase.ABSENT and pod_name in self.launches
            return Observation(Phase.ABSENT, disruption="removed") if lost else seen

    backend = Lost()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        run = await running(knit)
        backend.lose(names.run_pod(run.summary.run_id, 1))
        await generation_runs(knit, run, 2)


@pytest.mark.patient
async def test_an_attempt_after_the_commit_launches_nothing_twice(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that has made the next generation died before it could say so."""
    made: list[Relaunched] = []
    relaunch = PostgresRunExecutionStore.relaunch

    async def cut(self: PostgresRunExecutionStore, key: RunKey, **wanted: object) -> Relaunched:
        made.append(await relaunch(self, key, **wanted))  # type: ignore[arg-type]
        raise StoreUnavailable("the connection is lost")

    monkeypatch.setattr(PostgresRunExecutionStore, "relaunch", cut)
    backend = Held()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        run = await running(knit)
        backend.evict(run)
        await generation_runs(knit, run, 2)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        assert (await handle.result())["status"] == "superseded"
        assert [(one.status, one.times) for one in made] == [(RunStatus.WAITING, 1)]
        assert len(backend.launches) == 2


@pytest.mark.patient
async def test_hooks_hear_of_both_generations_and_of_no_failure(
    postgres: EmbeddedPostgres,
) -> None:
    with receiver() as hooks:
        backend = Held()
        async with knit_environment(postgres=postgres, backend=backend, hooks=SETTINGS) as knit:
            wanted = Hooks((hooks.url("/before"),), (hooks.url("/after"),))
            await knit.store.hooks.configure(wanted)
            run = await running(knit)
            backend.evict(run)
            await generation_runs(knit, run, 2)
            backend.finish(names.run_pod(run.summary.run_id, 2))
            await knit.final(run.summary.run_id)
            second = names.run_workflow(run.summary.run_id, 2)
            await knit.temporal.get_workflow_handle(second).result()
        moves = [f"→ {target}" for target in [*WHOLE[1:4], *WHOLE[1:]]]
        for path in ("/before", "/after"):
            seen = [call.transition[1] for call in hooks.calls if call.path == path]
            assert [f"→ {target}" for target in seen] == moves


@asynccontextmanager
async def told_by_nobody(
    postgres: EmbeddedPostgres, backend: MemoryBackend
) -> AsyncIterator[KnitEnvironment]:
    """A knit with an After hook, and no worker that could call it."""
    async with (
        knit_environment(postgres=postgres, backend=backend, hooks=SETTINGS, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        for worker in workers(knit.temporal, knit.deps, ALL_ROLES - {Role.HOOKS}):
            await stack.enter_async_context(worker)
        await knit.store.hooks.configure(Hooks(after=("http://127.0.0.1:1/after",)))
        yield knit


async def test_hooks_that_nobody_tells_keep_no_run_from_its_next_generation(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_of_runs, "_TOLD_WITHIN", timedelta(milliseconds=300))
    backend = Held()
    async with told_by_nobody(postgres, backend) as knit:
        run = await running(knit)
        backend.evict(run)
        await generation_runs(knit, run, 2)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        assert (await handle.result())["status"] == "superseded"


async def test_a_stop_does_not_wait_for_hooks_either(postgres: EmbeddedPostgres) -> None:
    """Though the Run was disrupted, and waits for its hooks to be told before it goes on."""
    backend = Held()
    async with told_by_nobody(postgres, backend) as knit:
        run = await running(knit)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        backend.evict(run)
        await _waits_for_hooks(handle)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        failed = await knit.final(run.summary.run_id)
        assert (failed.summary.status, failed.generation) == (RunStatus.FAILED, 1)
        assert failed.summary.exit == ABORTED_BY_USER


async def _waits_for_hooks(handle: WorkflowHandle[Any, Any]) -> None:
    """Waits until the workflow has set its timer."""
    async with asyncio.timeout(PATIENCE):
        while True:
            history = await handle.fetch_history()
            if any(one.HasField("timer_started_event_attributes") for one in history.events):
                return
            await asyncio.sleep(0.05)
