"""How a test plays the outside world with the in-memory back-end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.compute.base import (
    Observation,
    Phase,
    RunPod,
    StartFailure,
    StartFailureKind,
    Transfer,
    TransferMode,
)
from knit_workflows.compute.memory import MemoryBackend
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.runs.run import SUCCEEDED, Exit
from knit_workflows.domain.volumes import Mount, Volume

IN, OUT, LOG = Volume("in", "i"), Volume("out", "o"), Volume("log", "l")
NO_GRACE = timedelta()
STUCK = StartFailure(StartFailureKind.IMAGE, "ErrImagePull", "no such image")


def pod(name: str = "pod") -> RunPod:
    """A pod with an input, an output and a log."""
    mounts = (Mount("/in", IN),), (Mount("/out", OUT),)
    return RunPod(name, "run", 1, "plan", "image:1", *mounts, log=LOG)


async def test_a_volume_that_is_not_there_has_no_door() -> None:
    with pytest.raises(BackendRejected, match="there is no volume in"):
        await MemoryBackend().open_transfer(Transfer("t", IN, TransferMode.READ, "s"))


async def opened(backend: MemoryBackend) -> MemoryBackend:
    """Opens a back-end and makes the pod's volumes."""
    await backend.open()
    for volume in (IN, OUT, LOG):
        await backend.create_volume(volume)
    return backend


async def test_a_pod_succeeds_at_once_without_a_behaviour() -> None:
    """No file is made, no task is started."""
    backend = await opened(MemoryBackend())
    await backend.launch(pod())
    seen = await backend.observe("pod")
    assert (seen.phase, seen.exit) == (Phase.SUCCEEDED, SUCCEEDED)
    assert backend.launches == ["pod"]
    assert [path.name for path in backend.folder(LOG).iterdir()] == ["log"]


async def test_a_behaviour_may_be_plain_and_writes_to_folders() -> None:
    """It gets the pod, and says how it ends."""

    def behaviour(launched: RunPod) -> Exit:
        (backend.folder(launched.outputs[0].volume) / "model").write_text("made")
        return Exit(3, "(container main) Error")

    backend = await opened(MemoryBackend(behaviour))
    await backend.launch(pod())
    async with aclosing(backend.watch("pod")) as watch:
        seen = [await anext(watch), await anext(watch)]
    assert [one.phase for one in seen] == [Phase.RUNNING, Phase.FAILED]
    assert (backend.folder(OUT) / "model").read_text() == "made"


async def test_a_broken_behaviour_fails_its_pod() -> None:
    """The exception is told."""

    async def behaviour(_: RunPod) -> Exit:
        raise ValueError("wrong shape")

    backend = await opened(MemoryBackend(behaviour))
    await backend.launch(pod())
    async with aclosing(backend.watch("pod")) as watch:
        async for seen in watch:
            if seen.exit is not None:
                break
    assert seen.exit == Exit(1, "(container main) ValueError: wrong shape")


async def test_held_pods_run_until_they_are_finished() -> None:
    """By name, or all."""
    backend = await opened(MemoryBackend())
    backend.hold("pod")
    await backend.launch(pod())
    assert (await backend.observe("pod")).phase is Phase.RUNNING
    backend.finish("pod", Exit(7, "(container main) Error"))
    backend.finish("pod", SUCCEEDED)
    assert (await backend.observe("pod")).exit == Exit(7, "(container main) Error")


async def test_a_lost_pod_is_absent() -> None:
    """And may be launched again, as on a cluster."""
    backend = await opened(MemoryBackend())
    backend.hold()
    await backend.launch(pod())
    backend.lose("pod")
    assert await backend.observe("pod") == Observation(Phase.ABSENT)


async def test_a_pod_that_cannot_start_is_pending_until_it_passes() -> None:
    """Whether the failure comes before or after the launch."""
    backend = await opened(MemoryBackend())
    backend.set_start_failure("pod", STUCK)
    await backend.launch(pod())
    assert await backend.observe("pod") == Observation(Phase.PENDING, start_failure=STUCK)
    assert backend.launches == []
    backend.set_start_failure("pod", None)
    assert (await backend.observe("pod")).phase is Phase.SUCCEEDED
    assert backend.launches == ["pod"]


async def test_stop_waits_until_the_behaviour_has_let_go() -> None:
    """Only then is the pod absent."""
    letting_go = asyncio.Event()

    async def behaviour(_: RunPod) -> Exit:
        try:
            await asyncio.sleep(60)
        finally:
            await letting_go.wait()
        return SUCCEEDED

    backend = await opened(MemoryBackend(behaviour))
    await backend.launch(pod())
    await asyncio.sleep(0)
    for _ in range(2):
        await backend.stop("pod", grace=NO_GRACE)
        await asyncio.sleep(0.01)
        assert (await backend.observe("pod")).phase is Phase.RUNNING
    letting_go.set()
    async with aclosing(backend.watch("pod")) as watch:
        async for seen in watch:
            if seen.phase is Phase.ABSENT:
                break


async def test_a_missing_volume_is_rejected() -> None:
    """The contract says that volumes exist before the launch."""
    with pytest.raises(BackendRejected, match="no volume"):
        await MemoryBackend().launch(pod())
