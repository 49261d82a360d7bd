"""The real program against a real socket: what the transport seam cannot show."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydantic_core import to_json

from knit_cli.config.profile import Profile, save_profile
from tests.waiting import PATIENCE

A_RUN = {
    "runId": "r",
    "status": "done",
    "updatedAt": "2025-02-01T10:00:00+00:00",
    "plan": {"planId": "p", "image": "example/work:v1"},
    "inputs": [],
    "outputs": [],
    "log": {"tags": [], "knitId": "d"},
}

Answer = Callable[[socket.socket], None]


@contextmanager
def serving(*answers: Answer) -> Iterator[str]:
    """Gives the address of a server that hands one connection to each of the answers in turn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        thread.join()


def started(folder: Path, api_root: str, *arguments: str) -> subprocess.Popen[bytes]:
    store = folder / "profiles"
    save_profile(Profile(api_root), store=store, name="here")
    common = ["--profile", "here", "--profile-store", str(store)]
    return subprocess.Popen(
        [sys.executable, "-m", "knit_cli", *common, *arguments],
        cwd=folder,
        # A proxy that is not there: the machine's own API must be reached without it.
        env={**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Tests run in the background of a shell have SIGINT ignored, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def answer_with(connection: socket.socket, body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    connection.sendall(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body))


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(1)
    return head


@pytest.mark.patient
def test_a_followed_log_is_shown_as_it_comes(tmp_path):
    seen = threading.Event()

    def answer(connection):
        assert read_head(connection).startswith(b"GET /api/runs/r/log?follow")
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"6\r\nfirst\n\r\n")
        assert seen.wait(PATIENCE)  # only when it was read does the Run go on
        connection.sendall(b"7\r\nsecond\n\r\n0\r\n\r\n")

    def status(connection):
        assert read_head(connection).startswith(b"GET /api/runs/r HTTP")
        answer_with(connection, to_json(A_RUN))

    def rest(connection):
        assert read_head(connection).startswith(b"GET /api/runs/r/log?offset=13 ")
        connection.sendall(b"HTTP/1.1 200 OK\r\nLog-Offset: 13\r\nContent-Length: 0\r\n\r\n")

    with (
        serving(answer, status, rest) as api_root,
        started(tmp_path, api_root, "run", "show", "r", "--log", "--follow") as knit,
    ):
        assert knit.stdout is not None
        assert knit.stdout.read(6) == b"first\n"
        seen.set()
        assert knit.communicate() == (b"second\n", b"")
        assert knit.returncode == 0


@pytest.mark.patient
def test_an_upload_that_cannot_go_on_is_cut_and_not_ended(tmp_path):
    """The server must be able to tell half an archive from a whole one."""
    (tmp_path / "set").mkdir()
    changing = tmp_path / "set" / "a"
    changing.write_bytes(os.urandom(30_000_000))
    received = bytearray()

    def answer(connection):
        assert b"transfer-encoding: chunked" in read_head(connection).lower()
        while chunk := connection.recv(1 << 20):
            received.extend(chunk)
            if len(received) > 1_000_000:
                os.truncate(changing, 0)

    with (
        serving(answer) as api_root,
        started(tmp_path, api_root, "data", "push", "set", "-t", "a:b") as knit,
    ):
        out, err = knit.communicate()
    assert (knit.returncode, out) == (1, b"")
    assert b"'a': its size changed" in err
    assert len(received) > 1_000_000
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.patient
def test_a_server_that_refuses_early_is_heard(tmp_path):
    """The answer may come, and the connection end, before all is sent."""
    (tmp_path / "big").write_bytes(os.urandom(30_000_000))

    def answer(connection):
        read_head(connection)
        body = b'{"message": {"reason": "not today", "advice": "come tomorrow"}}'
        connection.sendall(
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        while connection.recv(1 << 20):
            pass

    with (
        serving(answer) as api_root,
        started(tmp_path, api_root, "data", "push", "big") as knit,
    ):
        _, err = knit.communicate()
    assert knit.returncode == 1
    assert err == b"error: cannot push\nreason: not today\nhint: come tomorrow\n"


@pytest.mark.patient
def test_an_answer_that_ends_too_early_leaves_nothing(tmp_path):
    def answer(connection):
        read_head(connection)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/tar+gzip\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n4\r\n\x1f\x8b\x08\0\r\n"
        )

    with (
        serving(answer, answer, answer) as api_root,
        started(tmp_path, api_root, "data", "pull", "id", "dest") as knit,
    ):
        _, err = knit.communicate()
    assert knit.returncode == 1
    assert b"was cut" in err
    assert err.count(b"retrying in") == 2
    assert list((tmp_path / "dest").iterdir()) == []


def read_body(connection: socket.socket) -> bytes:
    """Reads a chunked body to its end."""
    body = b""
    while not body.endswith(b"\r\n0\r\n\r\n"):
        body += connection.recv(1 << 20)
    return body


@pytest.mark.patient
def test_an_upload_that_is_cut_before_its_end_is_sent_anew(tmp_path):
    """Half an archive makes no Data, so that the second one is the only one."""
    (tmp_path / "set").write_bytes(os.urandom(30_000_000))
    bodies = []

    def cut(connection):
        read_head(connection)
        connection.recv(1 << 16)
        # Ends with a reset, as when the server dies, and not with an answer.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def refuse(connection):
        read_head(connection)
        bodies.append(read_body(connection))
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nheard")

    with (
        serving(cut, refuse) as api_root,
        started(tmp_path, api_root, "data", "push", "set") as knit,
    ):
        _, err = knit.communicate()
    assert b"s (2 of 6)" in err
    assert b"reason: heard" in err
    assert len(bodies) == 1
    assert len(bodies[0]) > 30_000_000


@pytest.mark.patient
def test_ctrl_c_during_an_upload_cuts_it(tmp_path):
    """The server sees half an archive, and the user one word."""
    (tmp_path / "set").write_bytes(os.urandom(30_000_000))
    begun = threading.Event()
    received = bytearray()

    def answer(connection):
        read_head(connection)
        received.extend(connection.recv(1 << 16))
        begun.set()
        with suppress(ConnectionError):
            while chunk := connection.recv(1 << 20):
                received.extend(chunk)
                stopped.wait(PATIENCE)  # far from the end, however fast it is sent

    stopped = threading.Event()
    with (
        serving(answer) as api_root,
        started(tmp_path, api_root, "data", "push", "set") as knit,
    ):
        assert begun.wait(PATIENCE)
        knit.send_signal(2)
        stopped.set()
        out, err = knit.communicate(timeout=PATIENCE)
    assert (knit.returncode, out, err) == (1, b"", b"interrupted\n")
    assert not received.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.patient
def test_nobody_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with started(tmp_path, f"http://127.0.0.1:{port}/api", "run", "find") as knit:
        _, err = knit.communicate()
    assert knit.returncode == 1
    assert b"does not answer" in err
    assert b"knit dev up" in err


@pytest.mark.patient
def test_ctrl_c_during_a_transfer(tmp_path):
    asked = threading.Event()
    done = threading.Event()

    def answer(connection):
        read_head(connection)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        asked.set()
        done.wait(PATIENCE)

    with (
        serving(answer) as api_root,
        started(tmp_path, api_root, "data", "pull", "-x", "id", "dest") as knit,
    ):
        assert asked.wait(PATIENCE)
        while not (tmp_path / "dest").exists():
            assert knit.poll() is None
            time.sleep(0.01)
        knit.send_signal(2)
        _, err = knit.communicate(timeout=PATIENCE)
        done.set()
    assert (knit.returncode, err) == (1, b"interrupted\n")
    assert list((tmp_path / "dest").iterdir()) == []
