"""What `knit dev status` says of the disk."""

from __future__ import annotations

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
    }
    console = Console(width=400, record=True)
    console.print(view.disk_line(folder, record))
    line = console.export_text()
    assert all(word in line for word in words), line
