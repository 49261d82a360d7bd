"""The compute contract: transfers, and what outlives the process. One test per rule."""

from __future__ import annotations

import asyncio

import pytest

from knit_workflows.compute.base import Endpoint, Phase, Transfer, TransferMode
from knit_workflows.domain.errors import DataExists, TransferNotReady
from tests.contract.compute.abilities import Ability
from tests.contract.compute.adapter import ComputeAdapter
from tests.contract.compute.pods import NO_GRACE, OUTPUT, Pods

FILES = {"a": b"one", "deep/er/b": bytes(range(256)) * 100, "empty": b""}


async def opened(pods: Pods, transfer: Transfer) -> Endpoint:
    """Asks until the transfer is ready, as the engine does."""
    async with asyncio.timeout(pods.adapter.patience.total_seconds()):
        while True:
            try:
                return await pods.backend.open_transfer(transfer)
            except TransferNotReady:
                await asyncio.sleep(0.1)


# --- transfers ---------------------------------------------------------------------------------


async def test_what_is_written_can_be_read(pods: Pods) -> None:
    """Through one transfer in, and another one out."""
    volume = await pods.volume()
    writing = pods.transfer(volume, TransferMode.WRITE)
    await pods.adapter.send(await opened(pods, writing), writing, FILES)
    await pods.backend.close_transfer(writing)
    reading = pods.transfer(volume, TransferMode.READ)
    assert await pods.adapter.receive(await opened(pods, reading), reading) == FILES


async def test_outputs_can_be_read(pods: Pods) -> None:
    """What a pod has made can be fetched after it ended."""
    pod = await pods.make(f"echo made > {OUTPUT}/it")
    await pods.ran(pod)
    reading = pods.transfer(pod.outputs[0].volume, TransferMode.READ)
    assert await pods.adapter.receive(await opened(pods, reading), reading) == {"it": b"made\n"}


async def test_an_open_transfer_is_found_open(pods: Pods) -> None:
    """Opening it again gives the same endpoint."""
    writing = pods.transfer(await pods.volume(), TransferMode.WRITE)
    assert await opened(pods, writing) == await opened(pods, writing)


async def test_a_volume_with_content_is_never_written_to(pods: Pods) -> None:
    """Whoever tries is told that the Data exists."""
    volume = await pods.volume({"a": b"one"})
    with pytest.raises(DataExists):
        await opened(pods, pods.transfer(volume, TransferMode.WRITE))


async def test_a_transfer_can_be_closed_twice(pods: Pods) -> None:
    """Closed already, or never opened: fine."""
    reading = pods.transfer(await pods.volume({"a": b"one"}), TransferMode.READ)
    await pods.backend.close_transfer(reading)
    await opened(pods, reading)
    await pods.backend.close_transfer(reading)
    await pods.backend.close_transfer(reading)


# --- restarts ----------------------------------------------------------------------------------


@pytest.mark.needs(Ability.OUTLIVES)
async def test_another_process_finds_what_runs_and_its_end(
    pods: Pods, adapter: ComputeAdapter
) -> None:
    """Its phase, its end and its log."""
    pod = await pods.launched(
        "echo before", f"until [ -e {OUTPUT}/go ]; do sleep 0.05; done", "echo after", "exit 3"
    )
    await pods.running(pod.name)
    async with adapter.another() as other:
        assert (await other.observe(pod.name)).phase is Phase.RUNNING
        assert pod.name in await other.run_pods()
        await pods.adapter.write_volume(pod.outputs[0].volume, {"go": b""})
        end = await pods.ended(pod.name, other)
        assert end.exit is not None
        assert end.exit.code == 3
        assert end == await pods.ended(pod.name)
        assert await pods.file(pod.log, "log") == "before\nafter\n"


@pytest.mark.needs(Ability.OUTLIVES)
async def test_another_process_starts_nothing_twice(pods: Pods, adapter: ComputeAdapter) -> None:
    """Whether the two come one after the other or at once."""
    pod = await pods.make(f"echo started >> {OUTPUT}/starts", "sleep 0.2")
    async with adapter.another() as other:
        await asyncio.gather(*(one.launch(pod) for one in (pods.backend, other) * 4))
        assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED
        await other.launch(pod)
    assert await pods.output(pod, "starts") == "started\n"


@pytest.mark.needs(Ability.OUTLIVES)
async def test_what_runs_outlives_the_object_that_started_it(
    pods: Pods, adapter: ComputeAdapter
) -> None:
    """Closing a back-end ends nothing."""
    pod = await pods.make("sleep 0.4", "echo end")
    async with adapter.another() as other:
        await other.launch(pod)
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED
    assert await pods.file(pod.log, "log") == "end\n"


@pytest.mark.needs(Ability.OUTLIVES)
async def test_another_process_can_stop_what_runs(pods: Pods, adapter: ComputeAdapter) -> None:
    """And the first one sees it."""
    pod = await pods.launched("sleep 60")
    await pods.running(pod.name)
    async with adapter.another() as other:
        await other.stop(pod.name, grace=NO_GRACE)
        await pods.gone(pod.name)
        assert (await other.observe(pod.name)).phase is Phase.ABSENT
