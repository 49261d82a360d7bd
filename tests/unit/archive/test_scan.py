"""Looking through an output: what is left out is found and named, within bounds."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from knit_workflows.archive import look_through, walk
from knit_workflows.archive.scan import Scan, scan, scan_note


def bind(path: Path) -> None:
    """Leaves a socket there, however long its path is."""
    with socket.socket(socket.AF_UNIX) as left:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            left.bind(path.name)
        finally:
            os.chdir(here)


def test_only_what_cannot_be_data_is_left_out(tmp_path: Path) -> None:
    """Files, folders, links (broken ones too) and named pipes are Data."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "into").symlink_to("/")
    os.mkfifo(tmp_path / "pipe")
    bind(tmp_path / "a" / "b" / "worker.sock")
    found = scan(tmp_path)
    assert found == Scan(7, (("a/b/worker.sock", "socket"),), {"socket": 1})
    assert scan_note("/out", found) == "output /out: 1 socket is not kept: a/b/worker.sock"


def test_what_mkfs_made_is_no_part_of_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it holds; in another folder than the top it is one like all others."""
    (tmp_path / "lost+found").mkdir()
    bind(tmp_path / "lost+found" / "s")
    with monkeypatch.context() as at_the_top:
        at_the_top.setattr("knit_workflows.archive.scan.is_top_of_file_system", lambda _: True)
        assert scan(tmp_path) == Scan(0)
        assert scan_note("/out", scan(tmp_path)) == ""
    (tmp_path / "lost+found" / "s").unlink()
    (tmp_path / "lost+found").rmdir()
    (tmp_path / "a" / "lost+found").mkdir(parents=True)
    bind(tmp_path / "a" / "lost+found" / "s")
    assert scan(tmp_path).left_out == (("a/lost+found/s", "socket"),)


def test_a_program_s_own_lost_and_found_is_told(tmp_path: Path) -> None:
    """As a pull of it leaves it out: the two say the same."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "model").write_text("x")
    (tmp_path / "pipe.sock").touch()
    bind(tmp_path / "s")
    told: list[tuple[str, str]] = []
    look_through(tmp_path, lambda path, what: told.append((path, what)))
    found = scan(tmp_path)
    assert list(found.left_out) == told
    assert found.entries == 3
    assert scan_note("/out", found) == (
        "output /out: 1 folder of the file system and 1 socket are not kept: lost+found, s"
    )


def test_the_first_ones_are_named_and_all_are_counted(tmp_path: Path) -> None:
    """In name order, wherever they are."""
    for number in range(45):
        folder = tmp_path / f"{number % 3}"
        folder.mkdir(exist_ok=True)
        bind(folder / f"{number:02}.sock")
    found = scan(tmp_path)
    assert found.left_out_count == 45
    assert [path for path, _ in found.left_out] == sorted(
        f"{number % 3}/{number:02}.sock" for number in range(45)
    )[:20]
    assert scan_note("/o", found).startswith("output /o: 45 sockets are not kept: 0/00.sock, 0/03.")
    assert scan_note("/o", found).endswith(" and 25 more")


def test_devices_are_left_out_too() -> None:
    """Each kind is counted by itself."""
    found = scan(Path("/dev"))
    assert found.kinds["character device"] >= 1
    words = scan_note("/out", Scan(2, (("null", ""), ("s", "")), {"socket": 1, "block device": 2}))
    assert words == "output /out: 2 block devices and 1 socket are not kept: null, s and 1 more"


def test_what_is_too_deep_for_an_archive_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "MAX_DEPTH", 3)
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    told: list[tuple[str, str]] = []
    look_through(tmp_path, lambda path, what: told.append((path, what)))
    assert told == [("a/b/c/d", "more than 3 folders deep")]


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.patient
def test_folders_may_be_deep(tmp_path: Path) -> None:
    """Deeper than there are descriptors, and longer than a path may be; no recursion."""
    depth = 2_000  # 5,000 takes 0.4 s to look through, and some disks 10 s to remove
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            Path("a-folder").mkdir()
            os.chdir("a-folder")
        with socket.socket(socket.AF_UNIX) as left:
            left.bind("s")
        os.fchdir(home)
        found = scan(tmp_path)
    finally:
        os.fchdir(home)
        os.close(home)
        _remove_chain(tmp_path, "a-folder")
    assert (found.entries, found.left_out_count, found.incomplete) == (depth + 1, 1, "")
    assert len(scan_note("/out", found)) < 300


def _remove_chain(top: Path, name: str) -> None:
    """Removes folders within folders: pytest's own way of tidying up is too shallow."""
    while (top / name).exists():
        second = top / name / name
        if second.exists():
            second.rename(top / "next")
        for file in (top / name).iterdir():
            file.unlink()
        (top / name).rmdir()
        if (top / "next").exists():
            (top / "next").rename(top / name)


def test_a_giant_folder_is_not_looked_through_to_the_end(tmp_path: Path) -> None:
    """By number or by time; what was found until then is told."""
    bind(tmp_path / "s")
    for number in range(5):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / str(number)).touch()
    some = scan(tmp_path, max_entries=4)
    assert (some.entries, some.left_out_count) == (4, 1)
    assert scan_note("/out", some) == (
        "output /out: 1 socket is not kept: s; it was not scanned to the end: it has more "
        "than 4 entries"
    )
    assert "it takes too long" in scan(tmp_path, max_seconds=0).incomplete


def test_what_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    """It is no failure."""
    gone = scan(tmp_path / "gone")
    assert scan_note("/out", gone) == (
        "output /out: it was not scanned to the end: No such file or directory"
    )


def test_names_cannot_break_a_line(tmp_path: Path) -> None:
    """Control characters and bytes that are no text are written out."""
    bind(tmp_path / "a\n\x1b[31m")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fsencode(tmp_path) + b"/b\xff")
    assert scan_note("/out", scan(tmp_path)).endswith(": a\\n\\x1b[31m, b\\xff")
