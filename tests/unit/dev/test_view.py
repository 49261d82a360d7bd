"""What `knit dev status` says of the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from knit_cli.dev import view
from knit_cli.dev.dev_folder import DevFolder, DevState, Ports

MIB = 1 << 20


@pytest.mark.parametrize(
    ("free", "state", "words"),
    [
        (300 * MIB, "ok", ("300 MiB free", "nothing new begins below 256 MiB", "reserve 0 KiB")),
        (200 * MIB, "low", ("has 200 MiB left", "uploads are refused, new Runs wait", "run rm")),
        (MIB, "full", ("has 1 MiB left", "less than 256 MiB")),
    ],
)
def test_the_disk_is_shown_with_its_floor_and_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str, words: tuple[str, ...]
) -> None:
    """As figures for programs, as a line for people."""
    monkeypatch.setattr(view.DiskSpace, "of", classmethod(lambda cls, at: cls(at, free, 100 << 30)))
    folder, record = DevFolder(tmp_path), DevState(Ports(1, 2, 3), floor=256 * MIB)
    assert view.disk_facts(folder, record) == {
        "folder": str(tmp_path),
        "state": state,
        "freeBytes": free,
        "floorBytes": 256 * MIB,
        "reserveBytes": 0,
        "trashOfOthersBytes": 0,
    }
    console = Console(width=400, record=True)
    console.print(view.disk_line(folder, record))
    line = console.export_text()
    assert all(word in line for word in words), line


def test_trash_that_only_others_can_free_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container engine of root leaves it; but not what somebody is filling, nor our own."""
    folder = DevFolder(tmp_path / "my state")
    trash = folder.compute / "trash"
    assert view.trash_lines(folder) == []
    for name in (f"volume.{'0' * 32}", "draft"):
        (trash / name / "deep").mkdir(parents=True)
        (trash / name / "deep" / "file").write_bytes(bytes(1 << 20))
    assert view.trash_lines(folder) == []
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    stuck = view.disk_facts(folder, DevState(Ports(1, 2, 3)))["trashOfOthersBytes"]
    assert isinstance(stuck, int)
    assert MIB <= stuck < 2 * MIB
    console = Console(width=400, record=True)
    console.print(*view.trash_lines(folder))
    line = console.export_text()
    assert "1 MiB belong to other users" in line
    assert f"sudo rm -rf '{trash}'/*.*" in line
