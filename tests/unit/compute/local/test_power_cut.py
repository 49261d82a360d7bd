"""What a power cut leaves of a pod's folder: names without content, or content of zeros."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows.compute.base import Phase, RunPod
from knit_workflows.compute.local import LocalBackend, launching, pod_folder
from knit_workflows.compute.local.processes import boot_id

from .conftest import MakePod, ended

RESTARTED = "the machine was restarted"
GONE = f"started {2**22 + 1} 1"


@pytest.fixture
async def pod(backend: LocalBackend, make_pod: MakePod) -> RunPod:
    """A pod whose folder is there, and of which nothing runs."""
    made = make_pod("echo said; echo made > /out/it")
    for volume in (made.inputs[0].volume, made.outputs[0].volume, made.log):
        assert volume is not None
        await backend.create_volume(volume)
    command = launching.SupervisorCommand("", (), b"", {}, None)
    launching._prepare(backend._state.pod(made.name), made, command, backend._state)
    return made


def cut(file: Path, content: bytes) -> None:
    """Leaves this of a file, written before the machine was started."""
    file.write_bytes(content)
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1
    os.utime(file, (before, before))


@pytest.mark.parametrize("left", [b"", bytes(4096)])
async def test_a_pod_whose_state_was_lost_is_launched_again(
    backend: LocalBackend, pod: RunPod, left: bytes
) -> None:
    """It says why it is gone; and it can be released."""
    cut(backend._state.pod(pod.name) / pod_folder.STATE, left)
    seen = await backend.observe(pod.name)
    assert (seen.phase, seen.disruption) == (Phase.ABSENT, RESTARTED)
    await backend.release(pod.name)
    assert await backend.run_pods() == []


async def test_a_pod_of_this_boot_that_was_never_started_was_not_disrupted(
    backend: LocalBackend, pod: RunPod
) -> None:
    seen = await backend.observe(pod.name)
    assert (seen.phase, seen.disruption) == (Phase.ABSENT, "")


@pytest.mark.parametrize("left", [b"", bytes(300), b'{"image": "ho'])
@pytest.mark.parametrize("said", ["", f"{GONE} {boot_id()}\nrunning\nexited 0 0\n"])
async def test_a_pod_whose_record_was_lost_is_launched_again(
    backend: LocalBackend, pod: RunPod, left: bytes, said: str
) -> None:
    """Even if it has ended: nobody knows which files are its own. It can be stopped, too."""
    folder = backend._state.pod(pod.name)
    (folder / pod_folder.POD).write_bytes(left)
    (folder / pod_folder.STATE).write_text(said)
    seen = await backend.observe(pod.name)
    assert (seen.phase, seen.disruption) == (Phase.ABSENT, RESTARTED)
    await backend.stop(pod.name, grace=timedelta())
    await backend.release(pod.name)
    assert await backend.run_pods() == []


async def test_a_launch_that_a_power_cut_has_interrupted_goes_on(
    backend: LocalBackend, pod: RunPod
) -> None:
    """Its folder is filled anew before anything is started."""
    folder = backend._state.pod(pod.name)
    for name in (pod_folder.POD, pod_folder.STATE, pod_folder.STOP):
        cut(folder / name, b"")
    seen = await ended(backend, pod)
    assert seen.phase is Phase.SUCCEEDED
    assert (backend._state.volume(pod.outputs[0].volume) / "it").read_text() == "made\n"
