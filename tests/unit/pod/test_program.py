"""`knit-pod`, the program in front of a Plan's command and beside it, without a cluster."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from knit_workflows.archive.scan import scan, scan_note
from knit_workflows.pod.termination import write_notes
from knit_workflows.provision.go_build import GoPrograms, build_if_needed
from tests.waiting import PATIENCE

pytestmark = pytest.mark.patient  # the first one builds it

SOURCES = Path(__file__).parents[3] / "knit_workflows" / "pod" / "program"


@pytest.fixture(scope="module")
def program() -> Path:
    programs = GoPrograms("knit-pod", SOURCES, ("knit/knit-pod",), takes="half a minute, once")
    return build_if_needed(programs, quiet=True) / "knit-pod"


@dataclass
class Room:
    """What a run pod has: a share, a log volume, an output, and two termination logs."""

    program: Path
    path: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("share", "log", "out"):
            (self.path / name).mkdir()
        for name in ("nurse", "main"):
            (self.path / name).touch()

    def start(self, who: str, *words: str | Path, **more: object) -> subprocess.Popen[bytes]:
        environ = os.environ | {"KNIT_TERMINATION_LOG": str(self.path / who)}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [str(word) for word in words],
            env=environ,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            **more,  # type: ignore[arg-type]
        )
        self.started.append(process)
        return process

    def record(self) -> subprocess.Popen[bytes]:
        """Starts the nurse; returns when the other container would be started."""
        path = self.path
        words = ["record", path / "share", path / "log", "/out", path / "out"]
        nurse = self.start("nurse", self.program, *words)
        subprocess.run([self.program, "ready", path / "share"], check=True)
        return nurse

    def run(
        self, *command: str, output: Path | None = None, **more: object
    ) -> subprocess.Popen[bytes]:
        share = self.path / "share"
        outputs = ["1", output] if output else ["0"]
        return self.start("main", share / "knit-pod", "run", share, *outputs, *command, **more)

    def admit(self) -> subprocess.Popen[bytes]:
        """Starts the nurse of a Plan without a log; returns when the other one would be started."""
        share, out = self.path / "share", self.path / "out"
        nurse = self.start("nurse", self.program, "admit", share, "/out", out)
        subprocess.run([self.program, "ready", share], check=True)
        return nurse

    def become(self, *command: str, **more: object) -> subprocess.Popen[bytes]:
        share = self.path / "share"
        words = [share / "knit-pod", "exec", share, "1", self.path / "out", *command]
        return self.start("main", *words, **more)

    def whole(self, *command: str, **more: object) -> tuple[int, bytes]:
        """Records and runs; returns the exit code, and what the container's own stdout had."""
        nurse = self.record()
        main = self.run(*command, **more)
        shown = main.communicate(timeout=PATIENCE)[0]
        assert nurse.wait(PATIENCE) == 0
        return main.returncode, shown

    @property
    def log(self) -> bytes:
        return (self.path / "log" / "log").read_bytes()

    def said(self, who: str) -> str:
        return (self.path / who).read_text()


@pytest.fixture
def room(program: Path, tmp_path: Path) -> Iterator[Room]:
    room = Room(program, tmp_path)
    yield room
    for process in room.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_log_has_both_streams_as_they_were_written_to(room: Room) -> None:
    script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done; printf 'no end'"
    code, shown = room.whole("sh", "-c", script)
    expected = b"".join(b"out %d\nerr %d\n" % (n, n) for n in (1, 2, 3)) + b"no end"
    assert (code, room.log, shown) == (0, expected, expected)
    assert room.said("nurse") == room.said("main") == ""


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_the_exit_code_is_the_commands(room: Room, script: str, code: int) -> None:
    assert room.whole("sh", "-c", script)[0] == code


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("no-such-command", 'exec: "no-such-command": executable file not found in $PATH'),
        ("/no/such/command", 'exec: "/no/such/command": no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
        ("/etc", 'exec: "/etc": is a directory'),
    ],
)
def test_a_command_that_cannot_be_started_ends_as_under_a_runtime(
    room: Room, command: str, why: str
) -> None:
    assert room.whole(command)[0] == 128
    assert room.said("main") == why


def test_a_command_is_looked_for_as_its_image_says(room: Room, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "tool"
    tool.write_text('#!/bin/sh\npwd; echo "$0" "$@"\n')
    tool.chmod(0o755)
    room.record()
    environ = {"PATH": f"/nowhere:{tmp_path / 'bin'}", "KNIT_TERMINATION_LOG": "/nowhere"}
    share = tmp_path / "share"
    words = [share / "knit-pod", "run", share, "0", "tool", "a b", "$c"]
    done = subprocess.run(words, env=environ, cwd=tmp_path / "out", capture_output=True)
    assert done.stdout.decode() == f"{tmp_path / 'out'}\n{tool} a b $c\n"


def test_many_bytes_of_any_kind_pass_unchanged(room: Room, tmp_path: Path) -> None:
    """Zeros, half characters, and one line of megabytes."""
    content = os.urandom(3 << 20) + b"x" * (5 << 20) + b"\n\0\xff"
    (tmp_path / "content").write_bytes(content)
    code, shown = room.whole("cat", str(tmp_path / "content"))
    assert code == 0
    assert room.log == content == shown


def test_the_log_grows_while_the_command_runs(
    room: Room, until: Callable[[Callable[[], bool]], None]
) -> None:
    room.record()
    main = room.run("sh", "-c", "echo one; read line; echo two", stdin=subprocess.PIPE)
    until(lambda: (room.path / "log" / "log").exists() and room.log == b"one\n")
    main.communicate(b"\n", timeout=PATIENCE)
    until(lambda: room.log == b"one\ntwo\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(
    room: Room, number: int, until: Callable[[Callable[[], bool]], None]
) -> None:
    script = f"trap 'echo got; exit 7' {number}; echo ready; while :; do sleep 0.05; done"
    nurse = room.record()
    main = room.run("sh", "-c", script)
    until(lambda: (room.path / "log" / "log").exists() and b"ready" in room.log)
    nurse.send_signal(signal.SIGTERM)  # it is told too, and stays for the last words
    main.send_signal(number)
    assert main.wait(PATIENCE) == 7
    assert nurse.wait(PATIENCE) == 0
    assert room.log == b"ready\ngot\n"


def test_a_signal_to_its_own_group_does_not_come_back(room: Room) -> None:
    code, _ = room.whole("sh", "-c", "trap 'echo got' USR1; kill -USR1 0; exit 5")
    assert (code, room.log) == (5, b"got\n")


def test_what_the_first_processes_descriptors_get_is_logged_too(room: Room) -> None:
    """Images write to /proc/1/fd/1; here the parent stands for the first process."""
    code, _ = room.whole("sh", "-c", "echo a > /proc/$PPID/fd/1; echo b > /proc/$PPID/fd/2")
    assert (code, room.log) == (0, b"a\nb\n")


def test_orphans_that_keep_the_pipe_are_not_waited_for(room: Room) -> None:
    code, _ = room.whole("sh", "-c", "echo a; sleep 300 & echo $! > out.pid", cwd=room.path)
    os.kill(int((room.path / "out.pid").read_text()), signal.SIGKILL)
    assert (code, room.log) == (0, b"a\n")


def test_without_its_nurse_a_command_goes_on(room: Room) -> None:
    nurse = room.record()
    main = room.run("sh", "-c", "echo before; read line; echo after; exit 4", stdin=subprocess.PIPE)
    assert main.stdout is not None and main.stdout.readline() == b"before\n"
    nurse.kill()
    nurse.wait()
    assert main.communicate(b"\n", timeout=PATIENCE)[0] == b"after\n"
    assert main.returncode == 4


def test_a_nurse_whose_command_never_starts_ends_when_told(room: Room) -> None:
    nurse = room.record()
    nurse.terminate()
    assert nurse.wait(PATIENCE) == 0
    assert not (room.path / "log" / "log").exists()


def test_a_command_does_not_start_without_its_nurse(room: Room) -> None:
    nurse = room.record()
    nurse.kill()
    nurse.wait()
    main = room.run("echo", "never")
    why = "knit's container cannot be reached: Connection refused"
    assert main.communicate(timeout=PATIENCE)[0].decode() == why + "\n"
    assert (main.returncode, room.said("main")) == (128, why)


def test_nobody_but_the_first_is_listened_to(room: Room) -> None:
    room.record()
    main = room.run("cat", stdin=subprocess.PIPE)
    while (room.path / "share" / "log").exists():
        time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match="No such file"):
        other.connect(str(room.path / "share" / "log"))
    main.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("full", ["out", "log"])
def test_a_command_does_not_start_unless_outputs_and_log_are_empty(room: Room, full: str) -> None:
    (room.path / full / "old").write_text("x")
    nurse = room.record()
    main = room.run("sh", "-c", "echo never")
    shown = main.communicate(timeout=PATIENCE)[0]
    path = "/out" if full == "out" else str(room.path / "log")
    why = f"{path} is not empty: it has 'old' in it. Outputs and logs must start empty."
    assert (main.returncode, nurse.wait(PATIENCE), shown.decode()) == (1, 1, why + "\n")
    assert room.said("main") == room.said("nurse") == why
    assert not (room.path / "log" / "log").exists()


def test_what_cannot_be_written_is_marked_and_noted_and_no_failure(
    room: Room, until: Callable[[Callable[[], bool]], None]
) -> None:
    """A limit on the size of files stands for a disk that is full for a while."""
    nurse = room.record()
    script = "read line; echo some words; read line; echo more; exit 0"
    main = room.run("sh", "-c", script, stdin=subprocess.PIPE)
    until(lambda: (room.path / "log" / "log").exists())
    resource.prlimit(nurse.pid, resource.RLIMIT_FSIZE, (4, resource.RLIM_INFINITY))
    assert main.stdin is not None and main.stdout is not None
    main.stdin.write(b"\n")
    main.stdin.flush()
    assert main.stdout.readline() == b"some words\n"  # what people see is whole
    until(lambda: room.log == b"some")
    resource.prlimit(nurse.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert main.communicate(b"\n", timeout=PATIENCE)[0] == b"more\n"
    assert (main.returncode, nurse.wait(PATIENCE)) == (0, 0)
    assert room.log == b"some\n[knit: 7 bytes not recorded: File too large]\nmore\n"
    assert room.said("nurse") == "log: it is incomplete, 7 bytes not recorded: File too large\n"


def test_fresh_outputs_are_opened_to_the_users_of_all_images(room: Room) -> None:
    """A group that new files inherit stays; the log is nobody else's to write."""
    (room.path / "out").chmod(0o2755)
    (room.path / "log").chmod(0o755)
    room.whole("true")
    assert (room.path / "out").stat().st_mode & 0o7777 == 0o2777
    assert (room.path / "log").stat().st_mode & 0o7777 == 0o755


def test_an_output_that_the_images_user_cannot_write_to_is_told_in_its_log(program: Path) -> None:
    # Not below pytest's folder, which is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        room = Room(program, Path(folder))
        room.path.chmod(0o755)
        closed = room.path / "closed"
        closed.mkdir(mode=0o555)
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        nurse = room.record()
        main = room.run("true", output=closed, **other)
        main.communicate(timeout=PATIENCE)
        assert (main.returncode, nurse.wait(PATIENCE)) == (0, 0)
        nurse.communicate()
        assert re.fullmatch(
            rf"\[knit: the user \d+ of this image may not write to {closed}, which belongs to "
            rf"\d+:\d+ with mode 555, and knit was not allowed to change that\]\n",
            room.log.decode(),
        )


def test_the_check_alone(program: Path, tmp_path: Path) -> None:
    """As an init container of Plans whose command is not known."""
    for folder in ("fine", "disk", "full", "fake"):
        (tmp_path / folder).mkdir()
    (tmp_path / "disk" / "lost+found").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "fake" / "lost+found").touch()
    (tmp_path / "file").touch()

    def check(*names: str) -> subprocess.CompletedProcess[str]:
        words = [program, "check", *(tmp_path / name for name in names)]
        return subprocess.run(words, capture_output=True, text=True)

    def check_as(*names: str) -> subprocess.CompletedProcess[str]:
        pairs = [word for name in names for word in (f"/plan/{name}", tmp_path / name)]
        return subprocess.run([program, "check", "--as", *pairs], capture_output=True, text=True)

    (tmp_path / "fine").chmod(0o700)
    assert check_as("fine", "disk").returncode == 0
    assert (tmp_path / "fine").stat().st_mode & 0o777 == 0o777
    assert check("fine", "disk").returncode == 0
    for name, why in (
        ("full", "is not empty: it has 'x' in it"),
        ("fake", "is not empty: it has 'lost+found' in it"),
        ("file", "is not a folder."),
        ("missing", "does not exist."),
    ):
        done = check("fine", name)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{tmp_path / name} {why}")
        done = check_as("fine", name)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"/plan/{name} {why}")  # as people know it
    assert check().returncode == 2


def test_outputs_are_scanned_as_on_one_machine(room: Room) -> None:
    """Two implementations, one sentence."""
    out = room.path / "out"
    script = r"""
import os, socket, sys
os.chdir(sys.argv[1])
os.makedirs("a/b"); os.makedirs("lost+found"); os.mkfifo("a/pipe"); os.symlink("x", "link")
for n in range(25):
    s = socket.socket(socket.AF_UNIX); s.bind(f"a/b/s{n:02}")
for name in (b"zwei\nzeilen", b"\xff", "\u00e9\u200b".encode(), b"y" * 90, b"tab\t"):
    os.mkdir(name); os.chdir(name); s = socket.socket(socket.AF_UNIX); s.bind("s"); os.chdir("..")
os.mknod("null", 0o20600, os.makedev(1, 3)) if os.geteuid() == 0 else None
"""
    assert room.whole("python3", "-c", script, str(out))[0] == 0
    assert room.said("nurse") == scan_note("/out", scan(out)) + "\n"
    assert " not kept: " in room.said("nurse")


def test_a_scan_of_many_folders_stays_within_the_memory_of_its_container(
    room: Room, until: Callable[[Callable[[], bool]], None]
) -> None:
    """Which is 64 MiB: names of folders to be visited take a quarter, pages of the log the rest."""
    nurse = room.record()
    main = room.run("sh", "-c", "read line", stdin=subprocess.PIPE)
    until(lambda: (room.path / "log" / "log").exists())
    out = os.open(room.path / "out", os.O_RDONLY)
    for number in range(130_000):
        os.mkdir(f"{number:06}" + "x" * 182, dir_fd=out)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"/proc/self/fd/{out}/s")  # there is something to note, however far it gets
    os.close(out)
    assert main.stdin is not None
    main.stdin.write(b"\n")
    main.stdin.flush()
    peaks = []
    while nurse.poll() is None:  # once it has ended its memory is not known any more
        status = Path(f"/proc/{nurse.pid}/status").read_text()
        peaks += re.findall(r"VmHWM:\s+(\d+) kB", status)
        time.sleep(0.02)
    main.communicate(timeout=PATIENCE)
    assert "it was not scanned to the end: it " in room.said("nurse")
    assert 0 < int(peaks[-1]) < 40 << 10


def test_a_long_note_leaves_the_others_their_share(room: Room) -> None:
    """As in Python."""
    out = room.path / "out"
    script = r"""
import os, socket, sys
os.chdir(sys.argv[1])
for n in range(20):
    name = f"{n:02}" + "\u00e9" * 118
    os.mkdir(name); os.chdir(name); s = socket.socket(socket.AF_UNIX); s.bind("s"); os.chdir("..")
"""
    subprocess.run(["python3", "-c", script, str(out)], check=True)
    share, log = room.path / "share", room.path / "log"
    (room.path / "made").mkdir()

    pairs = [word for number in range(3) for word in (f"/out{number}", room.path / "made")]
    nurse = room.start("nurse", room.program, "record", share, log, *pairs)
    subprocess.run([room.program, "ready", share], check=True)
    main = room.run("mv", *(str(path) for path in out.iterdir()), str(room.path / "made"))
    main.communicate(timeout=PATIENCE)
    assert (main.returncode, nurse.wait(PATIENCE)) == (0, 0)
    lines = [scan_note(f"/out{number}", scan(room.path / "made")) for number in range(3)]
    expected = room.path / "expected"
    expected.touch()
    write_notes(lines, str(expected))
    assert (room.path / "nurse").read_bytes() == expected.read_bytes()
    assert len(room.said("nurse").splitlines()) == 3


def test_without_a_log_the_program_becomes_the_command(room: Room) -> None:
    nurse = room.admit()
    main = room.become("sh", "-c", "echo $$; ls /proc/$$/fd; exit 3")
    shown = main.communicate(timeout=PATIENCE)[0]
    # Nothing is in front of it, and no descriptor is left to it.
    assert shown.split() == [b"%d" % main.pid, b"0", b"1", b"2"]
    assert (main.returncode, nurse.wait(PATIENCE)) == (3, 0)
    assert room.said("nurse") == room.said("main") == ""
    assert not list((room.path / "log").iterdir())


def test_without_a_log_the_nurse_ends_when_the_command_starts(room: Room) -> None:
    (room.path / "out").chmod(0o755)
    nurse = room.admit()
    main = room.become("sh", "-c", "echo begun; read line", stdin=subprocess.PIPE)
    assert nurse.wait(PATIENCE) == 0
    assert main.stdout is not None and main.stdout.readline() == b"begun\n"
    assert (room.path / "out").stat().st_mode & 0o7777 == 0o777
    main.communicate(b"\n", timeout=PATIENCE)
    assert main.returncode == 0


def test_without_a_log_too_outputs_must_be_empty(room: Room) -> None:
    (room.path / "out" / "file").touch()
    nurse = room.admit()
    main = room.become("touch", str(room.path / "started"))
    assert (main.wait(PATIENCE), nurse.wait(PATIENCE)) == (1, 1)
    assert room.said("main") == room.said("nurse")
    assert room.said("main").strip().startswith("/out is not empty: it has 'file' in it.")
    assert not (room.path / "started").exists()


def test_without_a_log_a_command_that_cannot_be_started_is_told(room: Room) -> None:
    room.admit()
    assert room.become("no-such-command").wait(PATIENCE) == 128
    assert (
        room.said("main").strip() == 'exec: "no-such-command": executable file not found in $PATH'
    )


def test_without_a_log_a_nurse_whose_command_never_starts_ends_when_told(room: Room) -> None:
    nurse = room.admit()
    nurse.terminate()
    assert nurse.wait(PATIENCE) == 0
    assert room.become("touch", str(room.path / "started")).wait(PATIENCE) == 128
    assert not (room.path / "started").exists()
