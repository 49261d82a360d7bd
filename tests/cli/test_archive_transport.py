"""The transport of archives against a raw socket: what httpx's own would do, with fewer copies."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from knit_cli.api.archive_transport import TRAILERS, ArchiveTransport
from knit_cli.api.responses import is_framed
from tests.waiting import PATIENCE

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TAR = {"Content-Type": "application/x-tar"}
SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nContent-Length: 4\r\n\r\nabc"
STRANGE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: br, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"


class Usual(httpx.BaseTransport):
    """Notes what does not concern archives."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"usual {request.method}")


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[socket.socket], None]], httpx.Client]]:
    """Gives a client of a server whose one connection a function serves, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def start(serve: Callable[[socket.socket], None]) -> httpx.Client:
            def accept() -> None:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE)
                with connection:
                    serve(connection)

            threads.append(threading.Thread(target=accept))
            threads[0].start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            return httpx.Client(
                base_url=url, transport=ArchiveTransport(Usual(), NOBODY), timeout=PATIENCE
            )

        yield start
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def head_of(connection: socket.socket) -> bytes:
    """Reads a request's head and whatever came with it."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(1000)
    return got


def test_an_archive_goes_out_in_chunks_and_the_answer_comes_back(served):
    """The request is the same as httpx's own: its path, its query, its headers."""
    seen = bytearray()

    def serve(connection: socket.socket) -> None:
        while not seen.endswith(b"0\r\n\r\n"):
            seen.extend(connection.recv(1 << 20))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with served(serve) as client:
        chunks = iter([b"abc", b"x" * 300_000])
        answer = client.post("/data", params={"tag": "a:b c"}, content=chunks, headers=TAR)
    assert answer.json() == {}
    head, _, body = bytes(seen).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /data?tag=a%3Ab+c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Content-Type: application/x-tar" in head
    assert body == b"3\r\nabc\r\n493e0\r\n" + b"x" * 300_000 + b"\r\n0\r\n\r\n"


def test_an_early_refusal_ends_the_sending(served):
    """Whoever pushes a terabyte is not to send it all to hear that the disk is full."""

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 507 Full\r\nContent-Length: 4\r\n\r\nfull")
        while connection.recv(1 << 20):
            pass

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    with served(serve) as client:
        answer = client.post("/data", content=endless(), headers=TAR)
    assert (answer.status_code, answer.text) == (507, "full")


def test_what_the_body_raises_passes_and_cuts_the_connection(served):
    """An error of the disk is not one of the network, and the server must see no last chunk."""
    seen, ended = bytearray(), threading.Event()

    def serve(connection: socket.socket) -> None:
        while chunk := connection.recv(1000):
            seen.extend(chunk)
        ended.set()

    def failure() -> Iterator[bytes]:
        yield b"abc"
        raise PermissionError(13, "Permission denied", "secret")

    with served(serve) as client, pytest.raises(PermissionError):
        client.post("/data", content=failure(), headers=TAR)
    assert ended.wait(PATIENCE)
    assert seen.endswith(b"3\r\nabc\r\n")
    assert not seen.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        OK + b"3\r\nab", OK + b"3\r\nabc\r\n", OK + b"3\r\nabc\r\n0\r\nx: y\r\n",
        OK + b"x\r\n", OK + b"3\r\nabcdef\r\n", SHORT, STRANGE, b"", b"HTTP/1.1 2",
    ],
)  # fmt: skip
def test_an_answer_that_breaks_off_is_an_error(served, sent):
    """What came of it must never pass for the whole."""

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(sent)

    with served(serve) as client, pytest.raises(httpx.TransportError):
        client.get("/data/x", headers={"Accept": "application/x-tar"})


@pytest.mark.parametrize(
    ("sent", "framed", "trailers"),
    [
        (OK + b"3\r\nabc\r\n0\r\nX-A: b\r\n\r\n", True, {"x-a": "b"}),
        (SHORT.replace(b"4", b"3"), True, {}),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", False, {}),
    ],
)
def test_what_says_where_it_ends_is_known_and_trailers_come_through(served, sent, framed, trailers):
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(sent)

    with served(serve) as client:
        answer = client.get("/data/x", headers={"Accept": "application/x-tar"})
    assert answer.content == b"abc"
    assert is_framed(answer) == framed
    assert answer.extensions[TRAILERS] == trailers


def test_a_server_that_is_silent_is_given_up(served):
    """The time-outs are those of the request."""
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        done.wait(PATIENCE)

    impatient = httpx.Timeout(PATIENCE, read=0.1)
    with served(serve) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/data/x", headers={"Accept": "application/x-tar"}, timeout=impatient)
        done.set()


def test_nobody_there_is_a_connect_error():
    """So that the command says how to start one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with (
        httpx.Client(base_url=url, transport=ArchiveTransport(Usual(), NOBODY)) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("/data/x", headers={"Accept": "application/x-tar"})


def test_other_requests_go_the_usual_way():
    """Small requests share connections, as httpx does it."""
    with httpx.Client(base_url="http://x", transport=ArchiveTransport(Usual(), NOBODY)) as client:
        assert client.get("/data").text == "usual GET"
        assert client.put("/data/x", json={}).text == "usual PUT"
