"""Volumes that are there already when they are to be made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from knit_workflows import archive
from knit_workflows.backup.volumes import Restored, announce, write_volumes
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
