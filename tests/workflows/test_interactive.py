"""What somebody waits for goes on while Runs hold every slot that is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Worker

from examples.own_worker.nightly import Nightly, Order
from knit_workflows import names
from knit_workflows.activities.run_starter import start_projector
from knit_workflows.client import KnitClient
from knit_workflows.compute.base import Launch, Phase, RunPod
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.runs.run import SUCCEEDED, Exit, RunDetail, RunQuery, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, KnitPlugin, Role
from knit_workflows.settings import EngineSettings
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import by_queue
from tests.waiting import PATIENCE, until
from tests.workflows.test_run import pending_with

SLOTS = 6
"""Activities that each Worker does at once; one of the engine's is the Projector."""
SIDE = 3
"""Data at either input of the flood: more Runs than slots."""


class Choked(MemoryBackend):
    """One whose launches do not come back, once told so."""

    def __init__(self) -> None:
        super().__init__()
        self.choked = False
        self.waiting = self.given_up = 0
        self.free = asyncio.Event()

    def is_at_hand(self) -> bool:
        """Says no."""
        return False

    async def launch(self, pod: RunPod) -> Launch:
        """Launches, or waits."""
        if self.choked:
            self.waiting += 1
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        return await super().launch(pod)


class Clinging(MemoryBackend):
    """One whose pods do not go when they are told to, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()
        self.lets_go = False

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Remembers that the pod was told."""
        self.told.add(pod_name)
        if self.lets_go:
            await super().stop(pod_name, grace=grace)


@asynccontextmanager
async def crowded(
    postgres: EmbeddedPostgres,
    backend: MemoryBackend,
    *,
    engine: EngineSettings = QUICK,
    drain_for: timedelta = timedelta(minutes=10),
) -> AsyncIterator[KnitEnvironment]:
    """A knit with a Worker for each queue, as a worker process has them, but with few slots."""
    async with (
        knit_environment(postgres=postgres, backend=backend, engine=engine, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        projector = knit.deps.projector_input().model_copy(update={"drain_for": drain_for})
        # Before the workers, which then find it.
        await start_projector(knit.temporal, projector)
        for queue, roles in by_queue(knit.deps.queues, ALL_ROLES).items():
            worker = Worker(
                knit.temporal,
                task_queue=queue,
                workflows=[Nightly] if Role.ENGINE in roles else [],
                plugins=[KnitPlugin(knit.deps, roles=roles)],
                max_concurrent_activities=SLOTS,
            )
            await stack.enter_async_context(worker)
        yield knit


async def _runs_of(knit: KnitEnvironment, plan_id: PlanId, count: int) -> list[RunDetail]:
    async with asyncio.timeout(PATIENCE):
        while True:
            runs = await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
            if len(runs) == count:
                return list(runs)
            await asyncio.sleep(0.02)


async def _push_and_pull(knit: KnitEnvironment) -> None:
    client = KnitClient(knit.temporal, lease=timedelta(seconds=PATIENCE), queues=knit.deps.queues)
    async with asyncio.timeout(PATIENCE):
        upload = await client.open_upload()
        assert (await client.finish(upload, ok=True)).status == "done"
        download = await client.open_download(upload.knit_id)
        await client.finish(download, ok=True)


def _plan(image: str, *inputs: str) -> dict[str, object]:
    return {
        "image": image,
        "inputs": [{"path": f"/{tag[0]}", "tags": [tag]} for tag in inputs],
        "outputs": [{"path": "/out", "tags": [f"of:{image.partition('/')[2][:4]}"]}],
    }


async def test_pushes_pulls_and_stops_do_not_queue_behind_runs(postgres: EmbeddedPostgres) -> None:
    backend = Choked()
    backend.hold()
    # No launch is given up because a heartbeat comes late.
    engine = QUICK.model_copy(update={"heartbeat": timedelta(seconds=PATIENCE)})
    async with crowded(postgres, backend, engine=engine) as knit:
        plan = await knit.apply(_plan("example/long:1", "long:yes"))
        await knit.push({"long": "yes"})
        async with asyncio.timeout(PATIENCE):
            while not backend.launches:
                await asyncio.sleep(0.01)
        [pod] = backend.launches
        [run] = await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan.summary.plan_id})))
        for number in range(SIDE):
            await asyncio.gather(knit.push({"a": "a"}), knit.push({"b": "b", "n": str(number)}))
        backend.choked = True
        await knit.apply(_plan("example/flood:1", "a:a", "b:b"))
        async with asyncio.timeout(PATIENCE):
            while backend.waiting < SLOTS - 1:
                await asyncio.sleep(0.05)

        await _push_and_pull(knit)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        async with asyncio.timeout(PATIENCE):
            while (await backend.observe(pod)).phase is not Phase.ABSENT:
                await asyncio.sleep(0.02)
        assert (backend.waiting, backend.given_up) == (SLOTS - 1, 0)  # nobody has made room

        backend.choked = False
        backend.free.set()
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED
        assert pod == names.run_pod(run.summary.run_id, 1)


async def _awaits(handle: WorkflowHandle[Nightly, str]) -> bool:
    """Says whether a workflow of a user's has come to the wait for its Run."""
    pending = (await handle.describe()).raw_description.pending_activities
    return any(one.activity_type.name == "knit.await_run" for one in pending)


async def test_the_projector_does_not_queue_behind_who_awaits_runs(
    postgres: EmbeddedPostgres,
) -> None:
    """None of those Runs would ever end without it."""
    free = asyncio.Event()

    async def until_free(_: RunPod) -> Exit:
        await free.wait()
        return SUCCEEDED

    engine = QUICK.model_copy(update={"max_active_runs": 1})
    drain_for = timedelta(milliseconds=200)
    backend = MemoryBackend(until_free)
    async with crowded(postgres, backend, engine=engine, drain_for=drain_for) as knit:
        plan_id = (await knit.apply(_plan("example/wait:1", "wait:yes"))).summary.plan_id
        handles = {}
        for number in range(SLOTS + 2):
            knit_id = await knit.push({"wait": "yes", "n": str(number)})
            handles[knit_id] = await knit.temporal.start_workflow(
                Nightly.run,
                Order(plan_id, "/w", knit_id),
                id=f"nightly-{number}",
                task_queue=knit.deps.queues.engine,
            )
        runs = await _runs_of(knit, plan_id, len(handles))
        async with asyncio.timeout(PATIENCE):
            while not all([await _awaits(handle) for handle in handles.values()]):
                await asyncio.sleep(0.05)

        other = (await knit.apply(_plan("example/else:1", "else:yes"))).summary.plan_id
        await knit.push({"else": "yes"})
        await _runs_of(knit, other, 1)
        await until(lambda: backend.launches)
        [pod] = backend.launches
        [run] = [one for one in runs if pod == names.run_pod(one.summary.run_id, 1)]
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        async with asyncio.timeout(PATIENCE):
            assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED

        free.set()
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*(one.result() for one in handles.values()))
        assert sorted(answer.split()[3] for answer in answers) == (
            ["done:"] * (len(handles) - 1) + ["failed:"]
        )


async def test_pushes_and_pulls_do_not_queue_behind_stops(postgres: EmbeddedPostgres) -> None:
    """Those of pods on a lost node take until somebody confirms that it is off."""
    engine = QUICK.model_copy(update={"stop_retry_interval": timedelta(seconds=1)})
    backend = Clinging()
    backend.hold()
    async with crowded(postgres, backend, engine=engine) as knit:
        plan_id = (await knit.apply(_plan("example/cling:1", "cling:yes"))).summary.plan_id
        for number in range(SLOTS + 1):
            await knit.push({"cling": "yes", "n": str(number)})
        await until(lambda: len(backend.launches) > SLOTS)
        runs = await _runs_of(knit, plan_id, SLOTS + 1)
        for run in runs:
            await knit.store.runs.stop(run.summary.run_id, fail=True)
        await until(lambda: len(backend.told) >= SLOTS)

        await _push_and_pull(knit)
        await until(lambda: len(backend.told) > SLOTS)
        assert len(await backend.run_pods()) > SLOTS  # nobody has made room

        backend.lets_go = True
        async with asyncio.timeout(PATIENCE):
            for run in runs:
                ended = await knit.final(run.summary.run_id)
                assert (ended.summary.status, ended.waiting) == (RunStatus.FAILED, None)


async def test_a_stop_between_two_looks_can_be_cancelled(postgres: EmbeddedPostgres) -> None:
    """No activity is under way then that could be told; the clean-up is another stop."""
    engine = QUICK.model_copy(update={"stop_retry_interval": timedelta(seconds=1)})
    backend = Clinging()
    backend.hold()
    async with crowded(postgres, backend, engine=engine) as knit:
        plan_id = (await knit.apply(_plan("example/cling:1", "cling:yes"))).summary.plan_id
        await knit.push({"cling": "yes"})
        await until(lambda: backend.launches)
        [run] = await _runs_of(knit, plan_id, 1)
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        await pending_with(knit, run.summary.run_id, "PodNotGone")
        await handle.cancel()
        backend.told.clear()
        await until(lambda: backend.told)
        assert await backend.run_pods()

        backend.lets_go = True
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(WorkflowFailureError) as failure:
                await handle.result()
        assert isinstance(failure.value.cause, CancelledError)
        ended = await knit.final(run.summary.run_id)
        assert (ended.summary.status, ended.waiting) == (RunStatus.FAILED, None)
        assert await backend.run_pods() == []
