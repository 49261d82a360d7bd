"""Programs that go on trying while the disk is full pause, and go on when there is room."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows.compute.local import LocalBackend, pausing, pod_folder, stopping
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.compute.local.pausing import PAUSE_AFTER, Pauser
from knit_workflows.compute.local.processes import descendants
from knit_workflows.disk import DiskSpace
from knit_workflows.settings import LocalSettings
from tests.waiting import PATIENCE
from tests.waiting import until as eventually

from .conftest import MakePod, until

FULL, SOME, ENOUGH = 0, 10 << 20, 1 << 30


class Disk:
    """A disk that a test fills and empties."""

    free = ENOUGH

    def of(self, folder: Path) -> DiskSpace:
        return DiskSpace(folder, self.free, 100 << 30)


def states(settings: LocalSettings) -> set[str]:
    """How the processes of the pod are, in the letters of the kernel."""
    account = pod_folder.read_account(settings.state / "pods" / "pod")
    sandbox = stopping.sandbox_of(account) if account else None
    found = set()
    for process in descendants(sandbox.pid) if sandbox else ():
        text = Path(f"/proc/{process.pid}/stat").read_text(errors="replace")
        found.add(text[text.rindex(")") + 2])
    return found


async def test_runs_pause_on_a_full_disk_until_there_is_room(
    backend: LocalBackend,
    settings: LocalSettings,
    make_pod: MakePod,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not at once: most fail by themselves. What is given back of a reserve is not for them.

    A stop ends them as ever.
    """
    disk = Disk()
    monkeypatch.setattr(pausing, "DiskSpace", disk)
    pod = make_pod("while :; do sleep 100; done")
    for volume in (*(mount.volume for mount in (*pod.inputs, *pod.outputs)), pod.log):
        assert volume is not None
        await backend.create_volume(volume)
    await backend.launch(pod)
    await eventually(lambda: states(settings) == {"S"})
    pauser = Pauser(StateFolder(settings.state), 256 << 20)
    pauser.look()
    disk.free = FULL
    for _ in range(PAUSE_AFTER - 1):
        pauser.look()
    assert states(settings) == {"S"}
    pauser.look()
    await eventually(lambda: states(settings) == {"T"})
    disk.free = SOME
    pauser.look()
    assert states(settings) == {"T"}
    disk.free = ENOUGH
    # Another one, as after a worker that was killed meanwhile.
    Pauser(StateFolder(settings.state), 256 << 20).look()
    await eventually(lambda: states(settings) == {"S"})
    disk.free = FULL
    for _ in range(PAUSE_AFTER):
        pauser.look()
    await backend.stop("pod", grace=timedelta())
    async with asyncio.timeout(PATIENCE):
        await until(backend, "pod", "absent")
