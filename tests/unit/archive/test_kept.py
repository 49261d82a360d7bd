"""Each row of the table of what a round trip keeps, in docs/how-to/push-and-pull.md, is true."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from knit_workflows import archive

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "push-and-pull.md"
LONG_AGO = 1_000_000_000


class Trip:
    """A folder, and what it has become."""

    def __init__(self, before: Path, after: Path) -> None:
        self.before = before
        self.after = after
        self.left_out: dict[str, str] = {}

    def go(self) -> None:
        """To a server and back, as the command line does it."""
        server = self.after.parent / "server"
        server.mkdir()
        archive.look_through(self.before, self.left_out.__setitem__)
        there = archive.iter_pack(self.before, archive.WHOLE)
        archive.unpack(io.BytesIO(b"".join(there)), server, sync=True)
        back = archive.iter_pack(server, archive.Form.asked("all", "kept"))
        archive.unpack(io.BytesIO(b"".join(back)), self.after, left_out=self.left_out.__setitem__)


@pytest.fixture
def trip(tmp_path: Path) -> Trip:
    made = Trip(tmp_path / "before", tmp_path / "after")
    made.before.mkdir()
    made.after.mkdir()
    return made


def content(trip: Trip) -> None:
    for name, text in {"a": b"", "b": os.urandom(3_000_001)}.items():
        (trip.before / name).write_bytes(text)
    trip.go()
    for name in "ab":
        assert (trip.after / name).read_bytes() == (trip.before / name).read_bytes()


def names(trip: Trip) -> None:
    wanted = [b"n" * 255, b"\xff\xfe", b"new\nline", "é".encode(), b" ", b"-rf", b"\\"]
    for name in wanted:
        (trip.before / os.fsdecode(name)).touch()
    trip.go()
    assert sorted(os.fsencode(path.name) for path in trip.after.iterdir()) == sorted(wanted)


def depth(trip: Trip) -> None:
    deep = trip.before.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    trip.go()
    assert trip.after.joinpath(*["d"] * 300).is_dir()
    assert archive.DEFAULT_LIMITS.depth == 65_536
    assert archive.DEFAULT_LIMITS.path_bytes == 1 << 20


def empty_folders(trip: Trip) -> None:
    (trip.before / "a" / "b").mkdir(parents=True)
    trip.go()
    assert (trip.after / "a" / "b").is_dir()


def permissions(trip: Trip) -> None:
    modes = {0o640: 0o640, 0o4755: 0o755, 0o7711: 0o711, 0o111: 0o511, 0o777: 0o777}
    for mode in modes:
        (trip.before / f"{mode:o}").touch()
        (trip.before / f"{mode:o}").chmod(mode)
        (trip.before / f"d{mode:o}").mkdir()
        (trip.before / f"d{mode:o}" / "x").touch()
        (trip.before / f"d{mode:o}").chmod(mode)
    (trip.before / "d0").mkdir(mode=0)
    trip.go()
    for mode, kept in modes.items():
        assert stat.S_IMODE((trip.after / f"{mode:o}").stat().st_mode) == kept
        assert stat.S_IMODE((trip.after / f"d{mode:o}").stat().st_mode) == kept | 0o500
        assert (trip.after / f"d{mode:o}" / "x").exists()
    assert stat.S_IMODE((trip.after / "d0").stat().st_mode) == 0o500


def times(trip: Trip) -> None:
    (trip.before / "d").mkdir()
    (trip.before / "d" / "file").touch()
    (trip.before / "d" / "link").symlink_to("file")
    (trip.before / "old").touch()
    os.utime(trip.before / "old", (-5, -5))
    for name in ("d/file", "d/link", "d"):
        os.utime(trip.before / name, (0, LONG_AGO + 0.5), follow_symlinks=False)
    trip.go()
    for name in ("d/file", "d/link", "d"):
        assert (trip.after / name).lstat().st_mtime == LONG_AGO
    assert (trip.after / "old").stat().st_mtime == 0


def owners(trip: Trip) -> None:
    (trip.before / "x").touch()
    if os.getuid() == 0:
        os.chown(trip.before / "x", 12345, 12345)
    trip.go()
    assert (trip.after / "x").stat().st_uid == os.getuid()


def symbolic_links(trip: Trip) -> None:
    targets = {"a": "/etc/passwd", "b": "../../..", "c": "no/where", "d": "d"}
    for name, target in targets.items():
        (trip.before / name).symlink_to(target)
    trip.go()
    assert {path.name: str(path.readlink()) for path in trip.after.iterdir()} == targets


def hard_links(trip: Trip) -> None:
    (trip.before / "a").write_bytes(b"same")
    (trip.before / "b").hardlink_to(trip.before / "a")
    trip.go()
    assert [(trip.after / name).read_bytes() for name in "ab"] == [b"same", b"same"]
    assert (trip.after / "a").stat().st_nlink == 1


def holes(trip: Trip) -> None:
    with (trip.before / "x").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"here")
    trip.go()
    assert (trip.after / "x").read_bytes() == (trip.before / "x").read_bytes()
    assert (trip.after / "x").stat().st_blocks == (trip.before / "x").stat().st_blocks


def named_pipes(trip: Trip) -> None:
    os.mkfifo(trip.before / "pipe", 0o620)
    trip.go()
    assert (trip.after / "pipe").is_fifo()


def sockets_and_devices(trip: Trip) -> None:
    os.mknod(trip.before / "s", stat.S_IFSOCK | 0o600)
    wanted = {"s": "socket"}
    if os.getuid() == 0:
        os.mknod(trip.before / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        wanted["null"] = "character device"
    trip.go()
    assert list(trip.after.iterdir()) == []
    assert trip.left_out == wanted


def extended_attributes(trip: Trip) -> None:
    (trip.before / "x").touch()
    os.setxattr(trip.before / "x", "user.note", b"hello")
    trip.go()
    assert os.listxattr(trip.after / "x") == []


def lost_and_found(trip: Trip) -> None:
    (trip.before / "lost+found").mkdir()
    (trip.before / "lost+found" / "#1").touch()
    trip.go()
    assert list(trip.after.iterdir()) == []
    assert trip.left_out == {"lost+found": "folder of the file system"}


CHECKS: dict[str, Callable[[Trip], None]] = {
    "content": content,
    "names": names,
    "depth": depth,
    "empty folders": empty_folders,
    "permissions": permissions,
    "times": times,
    "owners": owners,
    "symbolic links": symbolic_links,
    "hard links": hard_links,
    "holes in files": holes,
    "named pipes": named_pipes,
    "sockets and devices": sockets_and_devices,
    "extended attributes": extended_attributes,
    "`lost+found` at the top": lost_and_found,
}


@pytest.mark.parametrize("row", CHECKS)
@pytest.mark.patient
def test_a_round_trip_keeps_what_the_page_says(trip: Trip, row: str) -> None:
    CHECKS[row](trip)


def test_every_row_of_the_page_is_checked() -> None:
    section = PAGE.read_text().partition("## What a round trip keeps")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(CHECKS)
