"""A Run's files are on the disk before its end is reported."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from knit_workflows.compute.base import Phase, RunPod
from knit_workflows.compute.local import LocalBackend, durability, launching, pod_folder
from knit_workflows.compute.local.processes import boot_id
from knit_workflows.domain.errors import BackendUnavailable, StorageFull
from knit_workflows.settings import LocalSettings
from tests.waiting import PATIENCE, until

from .conftest import MakePod

STARTED = f"started {2**22 + 1} 1 {boot_id()}"


class Disk:
    """Notes what is synced, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.wholes = 0
        self.error: int | None = None
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(durability, "sync_file_system", self.sync_whole)

    def fsync(self, descriptor: int) -> None:
        """Notes the path."""
        self._raise()
        self.synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        self._fsync(descriptor)

    def sync_whole(self, _: int) -> None:
        """Counts it."""
        self._raise()
        self.wholes += 1

    def _raise(self) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that tells what was synced."""
    return Disk(monkeypatch)


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    """A back-end that nothing is started on."""
    made = LocalBackend(LocalSettings(state=tmp_path / "state", engine="none"))
    made._state.make()
    return made


@pytest.fixture(params=["with a log", "without a log"])
def pod(make_pod: MakePod, request: pytest.FixtureRequest) -> RunPod:
    """A pod with an output."""
    made = make_pod("true")
    return made if request.param == "with a log" else replace(made, log=None)


async def end(backend: LocalBackend, pod: RunPod, files: int = 1) -> Path:
    """Leaves what a pod leaves that has ended well, and gives its output."""
    volumes = [pod.inputs[0].volume, pod.outputs[0].volume, *([pod.log] if pod.log else [])]
    for volume in volumes:
        await backend.create_volume(volume)
    command = launching.SupervisorCommand("", (), b"", {}, None)
    folder = backend._state.pod(pod.name)
    launching._prepare(folder, pod, command, backend._state)
    if pod.log:
        (backend._state.volume(pod.log) / launching.LOG_FILE).write_text("said")
    output = backend._state.volume(pod.outputs[0].volume)
    (output / "deep").mkdir()
    for number in range(files):
        (output / "deep" / str(number)).write_text("made")
    (output / "link").symlink_to("nowhere")
    os.mkfifo(output / "pipe")
    (folder / pod_folder.STATE).write_text(f"{STARTED}\nrunning\nexited 0 0\n")
    return output


async def test_a_few_files_are_synced_one_by_one(
    backend: LocalBackend, pod: RunPod, disk: Disk
) -> None:
    """Their content and all names, once, before the end is seen; the log too."""
    output = await end(backend, pod)
    assert (await backend.observe(pod.name)).phase is Phase.SUCCEEDED
    assert {str(output / "deep" / "0"), str(output / "deep"), str(output)} <= {*disk.synced}
    assert str(output.parent) in disk.synced
    logs = [path for path in disk.synced if path.endswith("/log")]
    assert len(logs) == (pod.log is not None)
    assert disk.wholes == 0
    before = len(disk.synced)
    await backend.observe(pod.name)
    assert len(disk.synced) == before


async def test_volumes_may_be_on_another_disk(
    backend: LocalBackend, pod: RunPod, disk: Disk, tmp_path: Path
) -> None:
    """By a link in their place, as somebody makes who needs room."""
    volumes = tmp_path / "state" / "volumes"
    volumes.rename(tmp_path / "elsewhere")
    volumes.symlink_to(tmp_path / "elsewhere")
    output = await end(backend, pod)
    assert (await backend.observe(pod.name)).phase is Phase.SUCCEEDED
    assert str(output.resolve() / "deep" / "0") in disk.synced


async def test_many_files_are_synced_at_once(
    backend: LocalBackend, pod: RunPod, disk: Disk
) -> None:
    await end(backend, pod, files=durability.FEW)
    assert (await backend.observe(pod.name)).phase is Phase.SUCCEEDED
    assert disk.wholes == 1


async def test_files_that_are_closed_to_us_are_synced_with_the_whole_disk(
    backend: LocalBackend, pod: RunPod, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user's, whom a container had."""

    def closed(name: str | Path, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))

    monkeypatch.setattr(durability, "_sync", closed)
    await end(backend, pod)
    assert (await backend.observe(pod.name)).phase is Phase.SUCCEEDED
    assert disk.wholes == 1


@pytest.mark.parametrize("files", [1, durability.FEW])
@pytest.mark.parametrize(
    ("number", "raised"), [(errno.EIO, BackendUnavailable), (errno.ENOSPC, StorageFull)]
)
async def test_a_sync_that_fails_is_told(
    backend: LocalBackend,
    pod: RunPod,
    disk: Disk,
    files: int,
    number: int,
    raised: type[Exception],
) -> None:
    """Nothing has ended until it succeeds, and then a note says that the kernel had told so."""
    await end(backend, pod, files)
    disk.error = number
    for _ in range(2):
        with pytest.raises(raised):
            await backend.observe(pod.name)
    disk.error = None
    seen = await backend.observe(pod.name)
    assert seen.phase is Phase.SUCCEEDED
    assert seen.notes[0].startswith("files may be incomplete: the disk has reported an error: ")


async def test_those_that_ask_together_share_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not the one that was under way when they asked."""
    go, began, joined = threading.Event(), [], []
    shield = asyncio.shield

    def sync(_: int) -> None:
        began.append(1)
        assert go.wait(PATIENCE)

    def share(task: asyncio.Task[None]) -> asyncio.Future[None]:
        joined.append(task)
        return shield(task)

    monkeypatch.setattr(durability, "sync_file_system", sync)
    monkeypatch.setattr(asyncio, "shield", share)
    syncs = durability.SharedSyncs()
    first = asyncio.create_task(syncs.sync(tmp_path))
    await until(lambda: began)
    others = [asyncio.create_task(syncs.sync(tmp_path)) for _ in range(50)]
    others.append(asyncio.create_task(syncs.sync(tmp_path / "gone")))
    await until(lambda: len(joined) == 51)
    others[0].cancel()
    go.set()
    await asyncio.gather(first, *others[1:])
    assert len(began) == 2
    await syncs.sync(tmp_path)
    assert len(began) == 3
    await syncs.aclose()


def test_a_sync_that_others_share_outlives_the_folder_it_was_asked_for(
    tmp_path: Path, disk: Disk
) -> None:
    durability._sync_file_system_of(tmp_path / "gone")
    assert disk.wholes == 1
