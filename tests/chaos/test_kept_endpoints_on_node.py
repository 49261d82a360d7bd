"""A reader pod that is kept for the next download is gone in time, whoever is killed meanwhile.

Locally nothing is kept, so this is on the real node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import Client

from knit_workflows.embedded import EmbeddedPostgres
from tests.api.archives import tar_of
from tests.chaos.installation import eventually, installation
from tests.chaos.test_transfer_sweep import TAR, Counter, no_transfer, pull, serving, unpacked
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1200)]

FILES: Final = {"word": b"given\n"}
SETTINGS: Final = {
    "KNIT_ENGINE__TRANSFER_LINGER": "PT20S",
    "KNIT_ENGINE__TRANSFER_LEASE": "PT10S",
    "KNIT_ENGINE__GC_INTERVAL": "PT1S",
    "KNIT_ENGINE__GC_GRACE_PERIOD": "PT1S",
}


@asynccontextmanager
async def on_node(
    postgres: EmbeddedPostgres, temporal: Client, folder: Path
) -> AsyncIterator[tuple[Counter, KubernetesAdapter, AsyncExitStack]]:
    """Starts worker and API over a namespace of the node."""
    async with AsyncExitStack() as stack:
        adapter = await stack.enter_async_context(kubernetes_adapter())
        kubernetes = {
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(adapter.settings.kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": adapter.settings.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": adapter.settings.pod_image,
        }
        site = await stack.enter_async_context(
            installation(postgres, temporal, folder, **SETTINGS, **kubernetes)
        )
        yield await serving(stack, site), adapter, stack


async def readers(counter: Counter) -> list[str]:
    """Gives the states of the transfers that read."""
    query = "SELECT state FROM transfer WHERE mode = 'read'"
    return [str(state) for (state,) in await counter.site.gates.ask(query)]


async def nothing_is_left(counter: Counter, adapter: KubernetesAdapter) -> None:
    """Waits until there is neither a transfer's row nor a pod."""
    await eventually(lambda: no_transfer(counter))

    async def no_pod() -> bool:
        return await adapter.cluster.workload() == []

    await eventually(no_pod)


async def kept(counter: Counter, knit_id: str) -> str:
    """Downloads, and waits until only the pod is kept; gives the id of its workflow."""
    seen, going = set(counter.seen), asyncio.Event()
    going.set()
    answer = await pull(counter, knit_id, going)
    assert unpacked(answer.content) == FILES
    handle = await counter.begun()
    assert handle.id not in seen

    async def idle() -> bool:
        return await readers(counter) == ["idle"]

    await eventually(idle)
    return handle.id


@pytest.mark.parametrize("victim", ["worker", "api", "worker and its workflow"])
async def test_a_kept_pod_goes_whoever_is_killed(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path, victim: str
) -> None:
    """By its workflow at the next worker, or by housekeeping; the next pull is as fine."""
    async with on_node(postgres, temporal_client, tmp_path) as (counter, adapter, stack):
        pushed = await counter.http.post("/data", content=tar_of(FILES), headers=TAR)
        assert pushed.status_code == 200, pushed.text
        await counter.begun()
        knit_id = pushed.json()["knitId"]
        workflow = await kept(counter, knit_id)
        if victim == "api":
            counter.api.process.kill()
            counter = await serving(stack, counter.site)
        else:
            counter.site.kill()
            if victim != "worker":
                await temporal_client.get_workflow_handle(workflow).terminate("by hand")
            counter.site.worker.start()
        await nothing_is_left(counter, adapter)
        await kept(counter, knit_id)
        await nothing_is_left(counter, adapter)


async def test_an_api_that_is_killed_while_it_reads_leaves_no_pod(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Its lease ends, and what its client has not finished is not kept for others."""
    async with on_node(postgres, temporal_client, tmp_path) as (counter, adapter, stack):
        large = {"large": bytes(range(256)) * (48 << 10)}
        pushed = await counter.http.post("/data", content=tar_of(large), headers=TAR)
        assert pushed.status_code == 200, pushed.text
        await counter.begun()
        knit_id = pushed.json()["knitId"]
        reading = asyncio.create_task(pull(counter, knit_id, asyncio.Event()))

        async def is_open() -> bool:
            return await readers(counter) == ["open"]

        await eventually(is_open)
        counter.api.process.kill()
        reading.cancel()
        await asyncio.wait([reading])
        second = await serving(stack, counter.site)
        await nothing_is_left(second, adapter)
