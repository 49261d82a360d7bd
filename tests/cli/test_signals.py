"""Commands that are ended in the middle, by signals of every kind: real processes, real sockets."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from knit_cli.signals import end_on_signals
from knit_cli.transfer import staging
from knit_cli.transfer.staging import staging_area
from tests.api.archives import tar_of as plain_tar
from tests.cli.test_sockets import read_head, serving, started
from tests.waiting import PATIENCE, wait_until

ENDINGS = {signal.SIGTERM: b"terminated\n", signal.SIGHUP: b"hung up\n"}
SLOW = """#!/bin/sh
trap 'echo cleaned > said; exit 0' TERM
: > begun
while :; do sleep 0.1; done
"""
ENDED_AT_ONCE = """
import os, signal, subprocess, sys, time
from pathlib import Path

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        while not Path("begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
sys.argv = ["knit", "slow"]
from knit_cli.main import main
main()
"""
CONTENT = os.urandom(5000)
WHOLE = plain_tar({"y": CONTENT})
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"


def archive_for(head: bytes) -> tuple[bytes, bytes]:
    """Gives the media type that a request asks for, and the archive in it."""
    if b"application/tar+gzip" in head:
        return b"application/tar+gzip", gzip.compress(WHOLE)
    return b"application/x-tar", WHOLE


@pytest.fixture(autouse=True)
def nothing_ignored() -> Iterator[None]:
    """Commands inherit what is ignored, and these tests may be run under nohup or behind `&`."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDINGS}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Stalled:
    """A download that stops in the middle until it is told to go on."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        media_type, body = archive_for(read_head(connection))
        with suppress(OSError):  # whoever asked may be gone by now
            connection.sendall(HEAD % media_type + b"2BC\r\n" + body[:700] + b"\r\n")
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
            rest = body[700:]
            connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))


def whole(connection: socket.socket) -> None:
    media_type, body = archive_for(read_head(connection))
    connection.sendall(HEAD % media_type + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


@contextmanager
def a_stalled_pull(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Stalled]]:
    """A pull into `dest` that has begun to write there; it goes on, or is gone, afterwards."""
    answer = Stalled()
    with (
        serving(answer) as api_root,
        started(folder, api_root, "data", "pull", *flags, "id", "dest") as knit,
    ):
        try:
            assert answer.begun.wait(PATIENCE)
            wait_until(lambda: (folder / "dest").is_dir() and any((folder / "dest").iterdir()))
            yield knit, answer
        finally:
            answer.go_on.set()
            knit.communicate(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("number", "flags"),
    [
        (signal.SIGTERM, []),
        pytest.param(signal.SIGTERM, ["-x"], marks=pytest.mark.patient),
        *(pytest.param(signal.SIGHUP, flags, marks=pytest.mark.patient) for flags in ([], ["-x"])),
    ],
)
def test_a_pull_that_is_told_to_end_leaves_nothing(tmp_path, number, flags):
    with a_stalled_pull(tmp_path, *flags) as (knit, _):
        knit.send_signal(number)
        out, err = knit.communicate(timeout=PATIENCE)
    assert (knit.returncode, out, err) == (128 + number, b"", ENDINGS[number])
    assert list((tmp_path / "dest").iterdir()) == []


@pytest.mark.parametrize("number", [*ENDINGS, signal.SIGINT])
def test_a_signal_just_as_the_staging_folder_is_made(tmp_path, monkeypatch, number):
    """It ends the program when the folder is known, and so removed."""
    made, ends = staging._made, (SystemExit, KeyboardInterrupt)

    def made_and_interrupted(folder):
        both = made(folder)
        signal.raise_signal(number)
        return both

    monkeypatch.setattr(staging, "_made", made_and_interrupted)
    end_on_signals()
    with pytest.raises(ends), staging_area(tmp_path):
        pytest.fail("the signal came before")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.patient
def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As under nohup: the terminal may go, and the pull goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with a_stalled_pull(tmp_path, "-x") as (knit, answer):
            knit.send_signal(signal.SIGHUP)
            answer.go_on.set()
            knit.communicate(timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert knit.returncode == 0
    assert (tmp_path / "dest" / "id" / "y").read_bytes() == CONTENT


@pytest.mark.patient
@pytest.mark.parametrize("number", ENDINGS)
def test_a_push_that_is_told_to_end_is_cut(tmp_path, number):
    """The server sees half an archive, and drops it."""
    (tmp_path / "set").write_bytes(os.urandom(30_000_000))
    begun, stopped = threading.Event(), threading.Event()
    received = bytearray()

    def answer(connection):
        read_head(connection)
        received.extend(connection.recv(1 << 16))
        begun.set()
        with suppress(ConnectionError):
            while chunk := connection.recv(1 << 20):
                received.extend(chunk)
                stopped.wait(PATIENCE)

    with (
        serving(answer) as api_root,
        started(tmp_path, api_root, "data", "push", "set") as knit,
    ):
        assert begun.wait(PATIENCE)
        knit.send_signal(number)
        stopped.set()
        out, err = knit.communicate(timeout=PATIENCE)
    assert (knit.returncode, out, err) == (128 + number, b"", ENDINGS[number])
    assert not received.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.patient
@pytest.mark.parametrize("number", [signal.SIGINT, *ENDINGS])
def test_following_can_be_ended(tmp_path, number):
    done = threading.Event()

    def answer(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"6\r\nbegun\n\r\n")
        done.wait(PATIENCE)

    with (
        serving(answer) as api_root,
        started(tmp_path, api_root, "run", "show", "r", "--log", "--follow") as knit,
    ):
        assert knit.stdout is not None
        assert knit.stdout.read(6) == b"begun\n"
        knit.send_signal(number)
        _, err = knit.communicate(timeout=PATIENCE)
        done.set()
    if number == signal.SIGINT:  # as with Knitfab's command: 0, 1 and 2 are all there are
        assert (knit.returncode, err) == (1, b"interrupted\n")
    else:
        assert (knit.returncode, err) == (128 + number, ENDINGS[number])


@pytest.mark.patient
@pytest.mark.parametrize("flags", [[], ["-x"]])
def test_what_a_killed_pull_has_left_is_removed_by_the_next(tmp_path, flags):
    dest = tmp_path / "dest"
    with a_stalled_pull(tmp_path, *flags) as (knit, _):
        knit.kill()
        knit.wait(PATIENCE)
    (left,) = dest.iterdir()
    assert left.name.startswith(".knit-pull.")
    with (
        serving(whole) as api_root,
        started(tmp_path, api_root, "data", "pull", "-x", "other", "dest") as knit,
    ):
        _, err = knit.communicate(timeout=PATIENCE)
    assert knit.returncode == 0, err
    assert [path.name for path in dest.iterdir()] == ["other"]


@pytest.mark.patient
def test_what_a_living_pull_has_begun_is_left_alone(tmp_path):
    with a_stalled_pull(tmp_path, "-x") as (knit, answer):
        with (
            serving(whole) as api_root,
            started(tmp_path, api_root, "data", "pull", "-x", "other", "dest") as second,
        ):
            second.communicate(timeout=PATIENCE)
        assert second.returncode == 0
        answer.go_on.set()
        knit.communicate(timeout=PATIENCE)
    assert knit.returncode == 0
    assert sorted(path.name for path in (tmp_path / "dest").iterdir()) == ["id", "other"]
    assert (tmp_path / "dest" / "id" / "y").read_bytes() == CONTENT


def test_what_is_not_ours_stays(tmp_path):
    """A name alone proves nothing."""
    names = [".knit-pull.abcdefgh.part", ".knit-pull.part", ".id.abcdefgh.part", "a.part"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "work").mkdir()
        (tmp_path / name / "work" / "mine").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    (tmp_path / ".knit-pull.zzzzzzzz.part").symlink_to("elsewhere")
    (tmp_path / ".knit-pull.yyyyyyyy.part").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with staging_area(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("after", ["the folder", "the lock", "the work"])
def test_a_kill_between_any_two_steps_leaves_something_that_is_recognised(tmp_path, after):
    place = tmp_path / ".knit-pull.abcdefgh.part"
    place.mkdir()
    if after != "the folder":
        (place / "held-by-knit-data-pull").touch()
    if after == "the work":
        (place / "work" / "content" / "deep").mkdir(parents=True)
        (place / "work" / "content" / "deep" / "file").touch()
    with staging_area(tmp_path) as content:
        assert list(tmp_path.iterdir()) == [content.parent.parent]
        content.write_text("x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program_and_arguments", "ends_itself"),
    [
        pytest.param(("-m", "knit_cli", "slow"), False, id="while-it-works"),
        pytest.param(("-c", ENDED_AT_ONCE), True, id="as-it-is-started", marks=pytest.mark.patient),
    ],
)
def test_an_extension_is_told_to_end_too(tmp_path, program_and_arguments, ends_itself):
    """It may have to clean up, and must not go on behind the back of who ended the command."""
    program = tmp_path / "knit-slow"
    program.write_text(SLOW)
    program.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, *program_and_arguments],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as knit:
        if not ends_itself:
            wait_until((tmp_path / "begun").exists)
            knit.terminate()
        try:
            _, err = knit.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):  # all have ended, as they should
                os.killpg(knit.pid, signal.SIGKILL)
    assert (knit.returncode, err) == (143, b"terminated\n")
    assert (tmp_path / "said").read_text() == "cleaned\n"
