"""What a person sees of a backup and a restore while it is at work, and what a program gets."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import PATIENCE

pytestmark = pytest.mark.patient  # a process of its own for each

VOLUMES: Final = 5
MIB: Final = 3
ENTRY: Final = f"""
import sys
from pathlib import Path
from knit_cli.commands.admin.recovery import which
from knit_cli.main import main
from tests.unit.backup.memory import Knit

content = {{str(n): bytes([n]) * ({MIB} << 20) for n in range({VOLUMES})}}
source = Knit(content if sys.argv[1] == "full" else {{}}, b"1\\n", shown="knit here")
which.dev_installation = lambda _: source
del sys.argv[1]
main()
"""
"""`knit` for the stack in a folder, which is really one in memory."""
CONTROLS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Seen:
    """What a command wrote to stdout, and what a terminal got as its stderr."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """All that the terminal showed, each redrawing as a line of its own, without colour."""
        return re.split(r"[\r\n]+", CONTROLS.sub("", self.err))

    def counts(self, what: str) -> list[int]:
        """The volumes that were done, as the bar showed them one after another."""
        shown = re.compile(rf"{what} .*?(\d+)/{VOLUMES} volumes")
        return [int(found[1]) for line in self.lines if (found := shown.search(line))]


def on_terminal(folder: Path, kind: str, *arguments: str) -> Seen:
    """Runs `knit` with a terminal of 100 columns as its stderr."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    received: list[bytes] = []

    def read() -> None:
        while True:
            try:
                received.append(os.read(ours, 65536))
            except OSError:  # nobody has the other side any more
                return

    reading = threading.Thread(target=read)
    try:
        with process(folder, kind, theirs, *arguments) as command:
            os.close(theirs)
            reading.start()
            out, _ = ended(command)
        reading.join(PATIENCE)
    finally:
        os.close(ours)
    return Seen(command.returncode, out.decode(), b"".join(received).decode())


def process(folder: Path, kind: str, err: int, *arguments: str) -> subprocess.Popen[bytes]:
    kept = {name: v for name, v in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, kind, "admin", *arguments, "--state", "dev"],
        cwd=folder,
        env=kept | {"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=err,
    )


def ended(command: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Gives what a command wrote to its pipes; none is left that does not end."""
    try:
        return command.communicate(timeout=PATIENCE)
    finally:
        command.kill()


def off_terminal(folder: Path, kind: str, *arguments: str) -> Seen:
    """Runs it with a pipe as its stderr."""
    with process(folder, kind, subprocess.PIPE, *arguments) as command:
        out, err = ended(command)
    return Seen(command.returncode, out.decode(), err.decode())


def assert_grew(counts: list[int]) -> None:
    assert counts == sorted(counts)
    assert (counts[:1], counts[-1:]) == ([0], [VOLUMES])


def test_a_terminal_shows_how_far_a_backup_and_a_restore_are(tmp_path: Path):
    """The bar grows to the end and stays as the last picture of it; then the result is told."""
    made = on_terminal(tmp_path, "full", "backup", "kept")
    assert made.code == 0, made.err
    assert made.out == ""
    assert_grew(made.counts("backup"))
    last = max(number for number, line in enumerate(made.lines) if " volumes, " in line)
    *_, bar = (line for line in made.lines if f"{VOLUMES}/{VOLUMES} volumes" in line)
    assert f"{VOLUMES * MIB} MiB" in bar
    assert "knit: set " in made.lines[last]
    assert f"{VOLUMES} volumes, {VOLUMES} of them read" in made.lines[last]
    assert made.err.count("\x1b[?25l") == made.err.count("\x1b[?25h") == 1  # the cursor is back

    again = on_terminal(tmp_path, "full", "backup", "kept")
    assert set(again.counts("backup")) == {VOLUMES}  # it is full from the start

    restored = on_terminal(tmp_path, "empty", "restore", "kept")
    assert restored.code == 0, restored.err
    assert_grew(restored.counts("restore"))


def test_json_on_stdout_is_pure_whatever_stderr_is(tmp_path: Path):
    for run in (on_terminal, off_terminal):
        made = run(tmp_path, "full", "backup", f"kept-{run.__name__}", "--json")
        assert made.code == 0, made.err
        assert json.loads(made.out)["volumesRead"] == VOLUMES


def test_without_a_terminal_nothing_is_drawn(tmp_path: Path):
    """A log gets sentences: no bar, no controls, no colour."""
    made = off_terminal(tmp_path, "full", "backup", "kept")
    assert made.code == 0, made.err
    assert made.err.startswith("knit: set ")
    assert not re.search(r"[\x1b\r\u2501]", made.err)
    assert f"{VOLUMES}/{VOLUMES}" not in made.err


def test_quiet_draws_nothing_on_a_terminal(tmp_path: Path):
    made = on_terminal(tmp_path, "full", "backup", "kept", "--quiet")
    assert made.code == 0, made.err
    assert made.counts("backup") == []
