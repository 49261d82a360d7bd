"""Volumes that are there already when they are to be made, or that take long to be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from knit_workflows import archive
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.volumes import Restored, announce, write_volumes
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.domain.volumes import Volume
from tests.unit.backup.memory import Knit


def test_a_volume_that_another_program_has_packed_is_opened_once_to_be_compared(tmp_path: Path):
    """Its pieces are not known, so nothing could be compared with them."""
    opened: list[str] = []

    class Counted(Knit):
        def read(self, volume: Volume) -> Iterator[bytes]:
            opened.append(volume.knit_id)
            return super().read(volume)

    (tmp_path / "file").write_bytes(b"content")
    packed = b"".join(archive.iter_pack(tmp_path))
    there = Counted({"a": packed})
    frames = [announce([Restored("a", ())]), {"volume": "a"}, packed, {"end": True}]
    assert list(write_volumes(there, frames)) == [{"equal": "a"}]  # type: ignore[arg-type]
    assert opened == ["a"]


def test_a_knit_that_starts_leaves_what_a_restore_is_unpacking(tmp_path: Path):
    """However long ago the restore has made the folder at its top that it still fills."""
    source, state = tmp_path / "source", tmp_path / "state"
    (source / "one").mkdir(parents=True)
    names = [f"{number:03}" for number in range(200)]
    for name in names:
        (source / "one" / name).write_text(name)
    packed = b"".join(archive.iter_pack(source))

    def parts() -> Iterator[bytes]:
        yield packed[: len(packed) // 2]
        [draft] = (state / "trash").iterdir()
        assert list((draft / "one").iterdir())
        made = draft.stat().st_mtime - 700
        os.utime(draft, (made, made))
        StateFolder(state).empty_trash()
        yield packed[len(packed) // 2 :]

    FolderVolumes(state).write(Volume("data-knitid-1", "1"), parts())
    found = state / "volumes" / "data-knitid-1" / "one"
    assert sorted(one.name for one in found.iterdir()) == names
    assert not list((state / "trash").iterdir())
