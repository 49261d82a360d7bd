"""Small files of the user: one writer at a time, on Windows too."""

from __future__ import annotations

import errno
import subprocess
import sys
import types
from pathlib import Path

import pytest

from knit_cli.config import files
from knit_cli.config.files import sole_writer, write_private

WRITERS = 6
PROGRAM = """
import sys, pathlib
from knit_cli.config.files import sole_writer, write_private
path = pathlib.Path(sys.argv[1])
for _ in range(20):
    with sole_writer(path):
        write_private(path, str(int(path.read_text()) + 1))
"""


@pytest.mark.patient
def test_of_many_writers_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    command = [sys.executable, "-c", PROGRAM, str(path)]
    running = [subprocess.Popen(command) for _ in range(WRITERS)]
    assert [one.wait(100) for one in running] == [0] * WRITERS
    assert path.read_text() == str(20 * WRITERS)


class Windows:
    """`msvcrt.locking` as Microsoft describes it, for one process that holds the byte meanwhile."""

    LK_NBLCK = 2

    def __init__(self, busy: int, code: int = errno.EACCES) -> None:
        self.busy = busy
        self.code = code
        self.calls: list[tuple[int, int]] = []

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert descriptor > 2
        self.calls.append((mode, count))
        if len(self.calls) <= self.busy:
            raise OSError(self.code, "Permission denied")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    """This module believes that it is on Windows, whose locks have another name."""
    one = Windows(busy=3)
    monkeypatch.setattr(files, "sys", types.SimpleNamespace(platform="win32"))
    monkeypatch.setattr(files, "_PAUSE", 0)
    monkeypatch.setitem(sys.modules, "msvcrt", one)
    return one


def test_on_windows_a_writer_waits_for_the_other(windows: Windows, tmp_path: Path) -> None:
    with sole_writer(tmp_path / "logins"):
        assert windows.calls == [(windows.LK_NBLCK, 1)] * 4


def test_on_windows_what_is_no_other_writer_is_told(windows: Windows, tmp_path: Path) -> None:
    windows.code = errno.EINVAL
    with pytest.raises(OSError, match="denied"), sole_writer(tmp_path / "logins"):
        pytest.fail("it has no lock")


@pytest.mark.parametrize(("platform", "works"), [("win32", True), ("linux", False)])
def test_on_windows_a_file_that_is_being_read_is_replaced_afterwards(
    windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, works: bool
) -> None:
    whole, refusals = Path.replace, [1, 1]

    def replace(self: Path, target: Path) -> Path:
        if refusals:
            refusals.pop()
            raise PermissionError
        return whole(self, target)

    monkeypatch.setattr(files.sys, "platform", platform)
    monkeypatch.setattr(Path, "replace", replace)
    path = tmp_path / "logins"
    if works:
        write_private(path, "new")
        assert path.read_text() == "new"
    else:
        with pytest.raises(PermissionError):
            write_private(path, "new")
    assert [one.name for one in tmp_path.iterdir()] == (["logins"] if works else [])
