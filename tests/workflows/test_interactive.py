"""What somebody waits for goes on while Runs hold every slot that is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from temporalio.worker import Worker

from knit_workflows import names
from knit_workflows.client import KnitClient
from knit_workflows.compute.base import Launch, Phase, RunPod
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, KnitPlugin
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment
from knit_workflows.worker import by_queue
from tests.waiting import PATIENCE

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


@asynccontextmanager
async def crowded(
    postgres: EmbeddedPostgres, backend: MemoryBackend
) -> AsyncIterator[KnitEnvironment]:
    """A knit with a Worker for each queue, as a worker process has them, but with few slots."""
    async with (
        knit_environment(postgres=postgres, backend=backend, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        for queue, roles in by_queue(knit.deps.queues, ALL_ROLES).items():
            worker = Worker(
                knit.temporal,
                task_queue=queue,
                plugins=[KnitPlugin(knit.deps, roles=roles)],
                max_concurrent_activities=SLOTS,
            )
            await stack.enter_async_context(worker)
        yield knit


def _plan(image: str, *inputs: str) -> dict[str, object]:
    return {
        "image": image,
        "inputs": [{"path": f"/{tag[0]}", "tags": [tag]} for tag in inputs],
        "outputs": [{"path": "/out", "tags": [f"of:{image.partition('/')[2][:4]}"]}],
    }


async def test_pushes_pulls_and_stops_do_not_queue_behind_runs(postgres: EmbeddedPostgres) -> None:
    backend = Choked()
    backend.hold()
    async with crowded(postgres, backend) as knit:
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

        client = KnitClient(
            knit.temporal, lease=timedelta(seconds=PATIENCE), queues=knit.deps.queues
        )
        upload = await client.open_upload()
        assert (await client.finish(upload, ok=True)).status == "done"
        download = await client.open_download(upload.knit_id)
        await client.finish(download, ok=True)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        async with asyncio.timeout(PATIENCE):
            while (await backend.observe(pod)).phase is not Phase.ABSENT:
                await asyncio.sleep(0.02)
        assert (backend.waiting, backend.given_up) == (SLOTS - 1, 0)  # nobody has made room

        backend.choked = False
        backend.free.set()
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED
        assert pod == names.run_pod(run.summary.run_id, 1)
