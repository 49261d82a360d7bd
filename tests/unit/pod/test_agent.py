"""The transfer agent as a process, spoken to over a real socket."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from knit_workflows import archive
from knit_workflows.archive.volume import ServedVolume, VolumeNotWritable
from knit_workflows.pod.agent import AgentServer
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[3]
END = bytes(1024)
SECRET = "correct horse"
BEARER = {"Authorization": f"Bearer {SECRET}"}


class Agent:
    """One agent process; its stderr is its voice."""

    def __init__(
        self, path: Path, mode: str, idle: float, limit: int | None, grace: float = 0.5
    ) -> None:
        def limited() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "knit_workflows.pod.agent",
             "--path", path, "--mode", mode, "--port", "0", "--idle", str(idle),
             "--grace", str(grace)],
            stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, preexec_fn=limited,
            env={**os.environ, "KNIT_TRANSFER_TOKEN": SECRET},
        )  # fmt: skip
        match = re.search(r"port (\d+)", self.hear("serving"))
        assert match is not None
        self.port = int(match[1])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def hear(self, word: str) -> str:
        """Reads what it says until a line with the word."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if word in line:
                return line
        raise AssertionError(f"it ended without saying {word!r}")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self, method: str, path: str = "/", body: object = None, **headers: str
    ) -> tuple[int, bytes]:
        connection = self.connect()
        chunked = not isinstance(body, bytes | None)
        with closing(connection):
            connection.request(method, path, body, BEARER | headers, encode_chunked=chunked)
            with connection.getresponse() as response:
                return response.status, response.read()

    def raw(self, text: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(text)
        return connection


Start = Callable[..., Agent]
T = TypeVar("T")


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    agents: list[Agent] = []

    def start(mode: str, idle: float = 60, limit: int | None = None, grace: float = 0.5) -> Agent:
        agents.append(Agent(root, mode, idle, limit, grace))
        return agents[-1]

    yield start
    for agent in agents:
        agent.end()


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Agent]]:
    """Gives an agent of each mode on an empty volume, for requests that change nothing."""
    agents: dict[str, Agent] = {}

    def agent(mode: str) -> Agent:
        if mode not in agents:
            agents[mode] = Agent(tmp_path_factory.mktemp(mode), mode, PATIENCE, None)
        return agents[mode]

    yield agent
    for one in agents.values():
        one.end()


@pytest.fixture
def tar(tmp_path: Path) -> bytes:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x").write_bytes(b"content")
    (source / "large").write_bytes(os.urandom(3_000_000))
    return b"".join(archive.iter_pack(source))


def kept_beyond_idle(start: Start, mode: str, use: Callable[[Agent], T]) -> tuple[Agent, T]:
    """An agent that is still there long after it would have ended, had it not been used like that.

    On a loaded machine it may end before anybody has come to use it; then another one waits longer.
    """
    for idle in (0.5, 4, 30):
        agent = start(mode, idle=idle)
        with suppress(OSError):
            used = use(agent)
            try:
                agent.process.wait(idle * 2.4)
            except subprocess.TimeoutExpired:
                return agent, used
    raise AssertionError("it ended although it was used")


def started_upload(agent: Agent, part: bytes, total: int) -> socket.socket:
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
        f"Content-Length: {total}\r\n\r\n"
    )
    return agent.raw(head.encode() + part)


@pytest.mark.parametrize("path", ["/", "/log", "/nothing"])
@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {SECRET}", "Bearer é"])
def test_without_the_token_there_is_nothing(refusing, path: str, authorization: str) -> None:
    status, _ = refusing("read").ask("GET", path, Authorization=authorization)
    assert status == 401


def test_without_the_token_an_upload_writes_nothing(start: Start, root: Path, tar: bytes) -> None:
    status, body = start("write").ask("POST", body=tar, Authorization="Bearer no")
    assert status == 401
    assert json.loads(body)["reason"]
    assert archive.is_empty(root)


def test_health_needs_no_token(start: Start) -> None:
    assert start("read").ask("GET", "/healthz", Authorization="")[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_is_unpacked_and_a_second_one_refused(
    start: Start, root: Path, tar: bytes, chunked: bool
) -> None:
    agent = start("write")

    def body() -> object:
        return iter([tar[:100], tar[100:700_000], tar[700_000:]]) if chunked else tar

    def send() -> tuple[int, bytes]:
        extra = {"Transfer-Encoding": "chunked"} if chunked else {}
        return agent.ask("POST", body=body(), **extra)

    assert send() == (204, b"")
    assert (root / "sub" / "x").read_bytes() == b"content"
    status, answer = send()
    assert status == 409
    assert "content already" in json.loads(answer)["reason"]


def test_an_empty_archive_counts_as_content(start: Start) -> None:
    agent = start("write")
    assert agent.ask("POST", body=END)[0] == 204
    assert agent.ask("POST", body=END)[0] == 409


def test_a_volume_with_content_is_not_written(start: Start, root: Path, tar: bytes) -> None:
    (root / "old").write_bytes(b"old")
    assert start("write").ask("POST", body=tar)[0] == 409
    assert [path.name for path in root.iterdir()] == ["old"]


def test_delete_empties_the_volume_for_another_upload(start: Start, root: Path, tar: bytes) -> None:
    agent = start("write")
    assert agent.ask("POST", body=tar)[0] == 204
    assert agent.ask("DELETE") == (204, b"")
    assert archive.is_empty(root)
    assert agent.ask("DELETE")[0] == 204
    assert agent.ask("POST", body=tar)[0] == 204


def test_a_hostile_archive_is_refused_with_the_member(start: Start, root: Path, entry) -> None:
    agent = start("write")
    status, body = agent.ask("POST", body=entry(b"ok", b"1") + entry(b"../x", b"2") + END)
    assert status == 400
    assert json.loads(body)["member"] == "../x"
    assert archive.is_empty(root)
    assert agent.ask("POST", body=entry(b"ok", b"1") + END)[0] == 204


def test_a_refusal_reaches_a_client_that_is_still_sending(start: Start, entry) -> None:
    agent = start("write")
    connection = started_upload(agent, entry(b"../x", b"2") + bytes(200_000), 10_000_000)
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == 400
    assert json.loads(response.read())["reason"]
    connection.close()


def test_a_truncated_archive_in_a_complete_body_is_refused(
    start: Start, root: Path, tar: bytes
) -> None:
    status, body = start("write").ask("POST", body=tar[:-1024])
    assert (status, json.loads(body)["reason"]) == (400, "the archive is cut off")
    assert archive.is_empty(root)


def test_a_client_that_waits_is_asked_for_the_body(start: Start, root: Path, tar: bytes) -> None:
    agent = start("write")
    connection = agent.raw(
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
        b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (SECRET.encode(), len(tar))
    )
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(tar)
    assert connection.recv(100).startswith(b"HTTP/1.1 204")
    assert connection.recv(100) == b""
    connection.close()
    assert not archive.is_empty(root)


def test_a_full_volume_answers_507_and_is_empty_again(start: Start, root: Path, tar: bytes) -> None:
    status, _ = start("write", limit=1_000_000).ask("POST", body=tar)
    assert status == 507
    assert archive.is_empty(root)


def test_a_cut_upload_is_undone_and_may_be_repeated(start: Start, root: Path, tar: bytes) -> None:
    agent = start("write")
    started_upload(agent, tar[:2_000_000], len(tar)).close()
    agent.hear("cut and undone")
    assert archive.is_empty(root)
    assert agent.ask("POST", body=tar)[0] == 204


def test_a_chunked_upload_cut_between_chunks_is_undone(start: Start, root: Path, tar) -> None:
    """Even after a complete tar: without the final chunk the client has not said that it is."""
    agent = start("write")
    head = (
        f"POST / HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n" % len(tar) + tar + b"\r\n"
    agent.raw(head.encode() + chunk).close()
    agent.hear("cut and undone")
    assert archive.is_empty(root)


def test_only_one_upload_at_a_time(start: Start, root: Path, tar: bytes, until) -> None:
    agent = start("write")
    first = started_upload(agent, tar[:2_000_000], len(tar))
    until(lambda: not archive.is_empty(root))
    assert agent.ask("POST", body=tar)[0] == 409
    assert agent.ask("DELETE")[0] == 409
    first.sendall(tar[2_000_000:])
    assert first.recv(100).startswith(b"HTTP/1.1 204")
    first.close()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ("", b"", 411),
        ("Content-Length: x\r\n", b"", 400),
        ("Content-Length: -1\r\n", b"", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", 400),
        ("Transfer-Encoding: gzip\r\n", b"", 400),
        ("Transfer-Encoding: chunked\r\n", b"zz\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", b"-1\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", b"3\r\nabcdef\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", b"1" * 5000, 400),
    ],
)
def test_bodies_without_a_clear_end_are_refused(
    refusing, headers: str, body: bytes, status: int
) -> None:
    head = f"POST / HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\n{headers}\r\n"
    agent = refusing("write")
    connection = agent.raw(head.encode() + body)
    assert connection.recv(100).startswith(b"HTTP/1.1 %d" % status)
    connection.close()
    assert archive.is_empty(agent.path)


def test_a_client_that_asks_first_is_told_before_it_sends(start: Start, root: Path) -> None:
    (root / "old").write_bytes(b"old")
    agent = start("write")
    ask = "POST / HTTP/1.1\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n"
    for authorization, status in (("", b"401"), (f"Authorization: Bearer {SECRET}\r\n", b"409")):
        connection = agent.raw(f"{ask}{authorization}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 " + status)
        connection.close()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 505),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 99 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
    ],
)
def test_only_proper_requests_are_read(refusing, text: bytes, status: int) -> None:
    connection = refusing("read").raw(text)
    assert connection.recv(100).startswith(b"HTTP/1.1 %d" % status)
    connection.close()


def test_a_connection_serves_several_requests(start: Start, root: Path) -> None:
    (root / "log").write_bytes(b"line")
    with closing(start("read").connect()) as connection:
        for _ in range(3):
            connection.request("GET", "/log", headers=BEARER)
            with connection.getresponse() as response:
                assert response.read() == b"line"


@pytest.mark.parametrize(
    ("mode", "method", "path", "status"),
    [
        ("write", "GET", "/", 405), ("read", "POST", "/", 405), ("read", "DELETE", "/", 405),
        ("write", "GET", "/log", 405), ("read", "GET", "/other", 404), ("read", "PUT", "/", 405),
        ("read", "PATCH", "/", 405),
    ],
)  # fmt: skip
def test_each_mode_serves_only_its_own(
    refusing, mode: str, method: str, path: str, status: int
) -> None:
    answer, body = refusing(mode).ask(method, path, body=b"")
    assert answer == status
    assert json.loads(body)["reason"]


def test_a_download_is_the_volume_as_tar(start: Start, root: Path, tmp_path: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "large").write_bytes(os.urandom(5_000_000))
    agent = start("read")
    for _ in range(2):
        status, body = agent.ask("GET")
        assert status == 200
    after = tmp_path / "after"
    after.mkdir()
    archive.unpack(io.BytesIO(body), after)
    assert (after / "a" / "large").read_bytes() == (root / "a" / "large").read_bytes()


def test_a_download_that_fails_midway_is_seen_to_be_incomplete(start: Start, root: Path) -> None:
    (root / "a").write_bytes(b"")
    os.truncate(root / "a", 1 << 30)
    agent = start("read")
    with closing(agent.connect()) as connection:
        connection.request("GET", "/", headers=BEARER)
        answer = connection.getresponse()
        answer.read(4096)
        os.truncate(root / "a", 0)
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_folders_holes_and_notes_only_for_who_asks(start: Start, root: Path) -> None:
    (root / "sub").mkdir()
    os.mkfifo(root / "pipe")
    os.mknod(root / "s", stat.S_IFSOCK | 0o600)
    (root / "holes").write_bytes(b"")
    os.truncate(root / "holes", 1 << 20)
    agent = start("read")
    _, plain = agent.ask("GET")
    with tarfile.open(fileobj=io.BytesIO(plain)) as opened:
        assert [(one.name, one.type) for one in opened] == [("holes", b"0")]
    assert b"left out by knit" not in plain
    assert len(plain) > 1 << 20
    _, whole = agent.ask("GET", "/?entries=all&holes=kept")
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        kinds = [(one.name, one.type, one.issparse()) for one in opened]
    assert kinds == [("holes", b"0", True), ("pipe", b"6", False), ("sub", b"5", False)]
    assert b"comment=left out by knit: socket: s\n" in whole
    assert len(whole) < 1 << 14


def test_a_download_that_fails_at_once_says_why(start: Start, root: Path) -> None:
    agent = start("read")
    root.rename(root.parent / "moved")
    status, body = agent.ask("GET")
    assert status == 500
    assert json.loads(body) == {"reason": "No such file or directory", "member": str(root)}


def test_the_log_is_all_files_one_after_another(start: Start, root: Path) -> None:
    (root / "log").write_bytes(b"one\n")
    (root / "log.1").write_bytes(b"two\n")
    assert start("read").ask("GET", "/log") == (200, b"one\ntwo\n")


@pytest.mark.parametrize("path", ["/", "/log"])
def test_how_long_an_answer_would_be_is_known_before(start: Start, root: Path, path: str) -> None:
    """For readers that need a length; and the connection is good for the answer itself."""
    for name, size in (("a", 3), ("b", 300_000), ("c", 0)):
        (root / name).write_bytes(os.urandom(size))
    with closing(start("read").connect()) as connection:
        connection.request("HEAD", path, headers=BEARER)
        with connection.getresponse() as measured:
            assert measured.status == 200
            length = int(measured.headers["Content-Length"])
            measured.read()
        connection.request("GET", path, headers=BEARER)
        with connection.getresponse() as response:
            assert len(response.read()) == length


@pytest.mark.patient
def test_a_followed_log_grows_until_the_client_goes(start: Start, root: Path) -> None:
    def follow(agent: Agent) -> http.client.HTTPConnection:
        connection = agent.connect()
        connection.request("GET", "/log?follow", headers=BEARER)
        return connection

    agent, connection = kept_beyond_idle(start, "read", follow)
    with (root / "log").open("wb", buffering=0) as log:
        log.write(b"one\n")
        response = connection.getresponse()
        assert response.readline() == b"one\n"
        log.write(b"two\n")
        assert response.readline() == b"two\n"
    response.close()
    connection.close()
    assert agent.process.wait(PATIENCE) == 0


@pytest.mark.patient
def test_it_ends_when_idle_and_probes_do_not_keep_it(start: Start) -> None:
    agent = start("read", idle=0.5)
    with pytest.raises(OSError):
        while True:
            assert agent.ask("GET", "/healthz")[0] == 200
    assert agent.process.wait(PATIENCE) == 0


@pytest.mark.patient
def test_an_upload_under_way_keeps_it(start: Start, tar: bytes) -> None:
    agent, upload = kept_beyond_idle(
        start, "write", lambda agent: started_upload(agent, tar[:1000], len(tar))
    )
    upload.sendall(tar[1000:])
    assert upload.recv(100).startswith(b"HTTP/1.1 204")
    upload.close()
    assert agent.process.wait(PATIENCE) == 0


def test_an_upload_under_way_may_end_after_sigterm(
    start: Start, root: Path, tar: bytes, until
) -> None:
    """As when somebody drains the node; nobody else is let in any more."""
    agent = start("write", grace=PATIENCE)
    upload = started_upload(agent, tar[:2_000_000], len(tar))
    until(lambda: not archive.is_empty(root))
    agent.process.send_signal(signal.SIGTERM)
    until(lambda: not connectable(agent))
    upload.sendall(tar[2_000_000:])
    assert upload.recv(100).startswith(b"HTTP/1.1 204")
    upload.close()
    assert agent.process.wait(PATIENCE) == 0
    assert not archive.is_empty(root)


def connectable(agent: Agent) -> bool:
    try:
        agent.raw(b"").close()
    except OSError:
        return False
    return True


@pytest.mark.patient
def test_sigterm_ends_it_and_undoes_a_half_done_upload(
    start: Start, root: Path, tar: bytes, until
) -> None:
    agent = start("write")
    upload = started_upload(agent, tar[:2_000_000], len(tar))
    until(lambda: not archive.is_empty(root))
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(PATIENCE) == 0
    assert archive.is_empty(root)
    upload.close()


@pytest.mark.patient
def test_sigterm_ends_it_at_once_if_it_has_nothing_to_do(start: Start) -> None:
    """A pod may live for a minute after it was deleted, and its claim as long."""
    agent = start("write", grace=PATIENCE)
    with closing(agent.connect()) as idle:
        idle.request("GET", "/healthz")
        assert idle.getresponse().read() == b"{}"
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(PATIENCE / 2) == 0


HELD_UP = """
import builtins, runpy, sys
def load(name, *rest, load=builtins.__import__, **more):
    if name == "argparse":
        print("loading", flush=True)
        sys.stdin.readline()
    return load(name, *rest, **more)
builtins.__import__ = load
runpy.run_module("knit_workflows.pod.agent", run_name="__main__")
"""


@pytest.mark.patient
def test_sigterm_is_not_lost_while_it_starts(root: Path) -> None:
    """The first process of a container gets no signal that it neither handles nor blocks."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HELD_UP, "--path", root, "--mode", "write", "--port", "0"]
    environ = {**os.environ, "KNIT_TRANSFER_TOKEN": SECRET}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdin=pipe, stdout=pipe) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"loading\n"
        agent.send_signal(signal.SIGTERM)
        agent.communicate(b"\n", timeout=PATIENCE)
    assert agent.returncode == 0  # not killed by it: it was kept, and obeyed


def test_a_request_that_comes_as_it_ends_is_told(root: Path) -> None:
    """It has decided to; whoever had its connection by then hears it, and may try another one."""
    with AgentServer(ServedVolume(root), "read", SECRET, 0, idle=0) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        with closing(connection):
            assert server.idle_timer.seconds_left() == 0
            connection.request("GET", "/", headers=BEARER)
            with connection.getresponse() as response:
                assert (response.status, json.load(response)["reason"]) == (
                    503,
                    "the agent is ending",
                )
        server.shutdown()


def test_what_was_written_as_it_ends_is_removed(root: Path, tar: bytes) -> None:
    """The answer will not arrive, so nobody would know of it."""
    volume = ServedVolume(root)

    class Ending(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            volume.close(0)
            return super().read(size)

    with pytest.raises(VolumeNotWritable, match="the agent is ending"):
        volume.write(Ending(tar))
    assert archive.is_empty(root)


@pytest.mark.patient
def test_without_a_token_or_folder_it_does_not_start(root: Path) -> None:
    def code(path: Path, **environ: str) -> int:
        command = [
            sys.executable,
            "-m",
            "knit_workflows.pod.agent",
            "--mode",
            "read",
            "--path",
            path,
        ]
        return subprocess.run(
            command, env=os.environ | environ, cwd=REPOSITORY, capture_output=True, check=False
        ).returncode

    assert code(root) == 2
    assert code(root / "missing", KNIT_TRANSFER_TOKEN="x") == 2
