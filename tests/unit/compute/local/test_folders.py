"""The trash of the state folder: what a killed process left in it goes, what is in use stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from knit_workflows.archive.folder_stack import FolderStack, opened_folder
from knit_workflows.compute.base import Volume
from knit_workflows.compute.local.folders import StateFolder, disk_errors
from knit_workflows.domain.errors import BackendUnavailable, KnitError, StorageFull


def test_what_was_being_removed_is_removed_at_the_next_start(tmp_path: Path) -> None:
    """However young: a killed worker is started again at once, and nobody else would do it."""
    state = StateFolder(tmp_path)
    state.make()
    volume = Volume("data-knitid-1", "1")
    state.create_volume(volume)
    (state.volume_path(volume) / "large").write_text("x")
    assert state.bury(state.volume_path(volume)) is not None
    StateFolder(tmp_path).empty_trash()
    assert list((tmp_path / "trash").iterdir()) == []


def test_a_draft_of_another_process_stays(tmp_path: Path) -> None:
    """Until it is so old that its process must have died."""
    state = StateFolder(tmp_path)
    state.make()
    with state.draft() as draft:
        StateFolder(tmp_path).empty_trash()
        assert draft.exists()
        os.utime(draft, (0, 0))
        StateFolder(tmp_path).empty_trash()
        assert not draft.exists()


def test_a_volume_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    """Also where the program left folders that not even its owner may enter."""
    state = StateFolder(tmp_path)
    state.make()
    volume = Volume("deep", "id")
    state.create_volume(volume)
    with opened_folder(state.volume(volume)) as folder:
        descent: FolderStack[str] = FolderStack(folder)
        for _ in range(1500):
            os.mkdir("d", dir_fd=descent.here)
            descent.enter("d")
        os.mkdir("shut", 0, dir_fd=descent.here)
        os.symlink("/", "link", dir_fd=descent.here)
        descent.close()
    grave = state.bury(state.volume(volume))
    assert grave is not None
    state.remove(grave)
    assert not grave.exists()
    state.remove(grave)


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
