"""The trash of the state folder: what a killed process left in it goes, what is in use stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from knit_workflows.archive.folder_stack import FolderStack, opened_folder
from knit_workflows.compute.local import LocalBackend
from knit_workflows.compute.local.folders import StateFolder, disk_errors
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    KnitError,
    StorageFull,
    VolumeRefused,
)
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import LocalSettings

FILLING = """
import pathlib, sys, time
from knit_workflows.compute.local.folders import StateFolder
with StateFolder(pathlib.Path(sys.argv[1])).draft() as draft:
    print(draft, flush=True)
    time.sleep(60)
"""


def test_what_was_being_removed_is_removed_at_the_next_start(tmp_path: Path) -> None:
    """However young: a killed worker is started again at once, and nobody else would do it."""
    state = StateFolder(tmp_path)
    state.make()
    volume = Volume("data-knitid-1", "1")
    state.create_volume(volume)
    (state.volume_path(volume) / "large").write_text("x")
    assert state.move_to_trash(state.volume_path(volume)) is not None
    StateFolder(tmp_path).empty_trash()
    assert list((tmp_path / "trash").iterdir()) == []


def test_a_draft_in_use_stays_however_old_it_is(tmp_path: Path) -> None:
    """While one folder in it is filled for hours its own time stands still."""
    state = StateFolder(tmp_path)
    state.make()
    with state.draft() as draft:
        os.utime(draft, (0, 0))
        StateFolder(tmp_path).empty_trash()
        assert draft.exists()
    assert not draft.exists()


@pytest.mark.patient
def test_a_draft_whose_process_was_killed_goes_once_it_is_old(tmp_path: Path) -> None:
    """A young one may be that of a process that is about to lock it."""
    state = StateFolder(tmp_path)
    state.make()
    command = [sys.executable, "-c", FILLING, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        draft = Path(process.stdout.readline().strip())
        process.kill()
    StateFolder(tmp_path).empty_trash()
    assert draft.exists()
    os.utime(draft, (0, 0))
    StateFolder(tmp_path).empty_trash()
    assert not draft.exists()


@pytest.mark.patient
def test_a_volume_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    """Also where the program left folders that not even its owner may enter."""
    state = StateFolder(tmp_path)
    state.make()
    volume = Volume("deep", "id")
    state.create_volume(volume)
    with opened_folder(state.volume(volume)) as folder:
        stack: FolderStack[str] = FolderStack(folder)
        for _ in range(1500):
            os.mkdir("d", dir_fd=stack.here)
            stack.enter("d")
        os.mkdir("shut", 0, dir_fd=stack.here)
        os.symlink("/", "link", dir_fd=stack.here)
        stack.close()
    trashed = state.move_to_trash(state.volume(volume))
    assert trashed is not None
    state.remove(trashed)
    assert not trashed.exists()
    state.remove(trashed)


async def test_what_is_not_ours_stays_in_the_trash_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container left it, as another user. The volume is gone all the same, and knit goes on."""

    def unlink(name: str, **where: int) -> None:
        if name == "theirs":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
        real(name, **where)

    real = os.unlink
    monkeypatch.setattr(os, "unlink", unlink)
    backend = LocalBackend(LocalSettings(state=tmp_path, engine="none"))
    await backend.open()
    volume = Volume("data-knitid-1", "1")
    await backend.create_volume(volume)
    for name in ("ours", "theirs"):
        (tmp_path / "volumes" / volume.name / name).touch()
    await backend.delete_volume(volume)
    assert not (tmp_path / "volumes" / volume.name).exists()
    await backend.aclose()
    assert "could not empty the trash" in caplog.text
    assert "theirs belongs to another user, so it stays in the trash" in caplog.text
    [grave] = (tmp_path / "trash").iterdir()
    assert [left.name for left in grave.iterdir()] == ["theirs"]
    for number in range(9):  # in whatever order they come
        (tmp_path / "trash" / f"other-{number}.{uuid.uuid4().hex}").mkdir()
    (tmp_path / "trash" / f"link.{uuid.uuid4().hex}").symlink_to("/")
    (tmp_path / "trash" / f"file.{uuid.uuid4().hex}").touch()
    with pytest.raises(BackendRejected) as refused:
        StateFolder(tmp_path).empty_trash()
    assert refused.value.advice == f"remove it as that user or as root: {grave}"
    assert list((tmp_path / "trash").iterdir()) == [grave]


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (errno.ENOSPC, StorageFull, ""),
        (errno.EDQUOT, StorageFull, ""),
        (errno.EACCES, BackendUnavailable, "right"),
        (errno.EROFS, BackendUnavailable, "read-only"),
        (errno.EDOM, BackendUnavailable, "healthy local disk"),
    ],
)
def test_what_the_disk_answers_is_told_in_words(
    code: int, kind: type[KnitError], hint: str
) -> None:
    with pytest.raises(kind) as caught, disk_errors():
        raise OSError(code, os.strerror(code), "/state/x")
    assert hint in caught.value.advice
    assert "/state/x" in caught.value.reason + caught.value.see


def test_an_imported_volume_is_a_folder_in_its_place(tmp_path: Path) -> None:
    """A link to one elsewhere is not: knit would delete it with the Data."""
    state = StateFolder(tmp_path / "state")
    state.make()
    volume = Volume("data-knitid-1", "1")
    place = state.volume_path(volume)
    with pytest.raises(VolumeRefused, match=str(place)):
        state.require_imported(volume)
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VolumeRefused):
        state.require_imported(volume)
    place.unlink()
    place.touch()
    with pytest.raises(VolumeRefused):
        state.require_imported(volume)
    place.unlink()
    place.mkdir()
    state.require_imported(volume)
