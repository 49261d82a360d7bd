"""Bodies that a thread reads from, or writes to, the socket itself; and what comes after them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest

from knit_api.deps import Timeouts
from knit_api.server import sockets
from knit_workflows import archive
from knit_workflows.domain.runs.run import RunStatus
from tests.api.archives import HELLO, files_in, tar_of
from tests.api.live_server import chunk, talk, unchunked
from tests.api.test_downloads import a_data, get
from tests.api.test_uploads import assert_nothing_is_left
from tests.waiting import until

LARGE = {"large": os.urandom(3 << 20), "small": b"x", "sub/other": os.urandom(700_001)}
END = b"0\r\n\r\n"


def post(*headers: str) -> bytes:
    lines = ["POST /api/data HTTP/1.1", "Host: x", "Content-Type: application/x-tar",
             "Transfer-Encoding: chunked", *headers, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode()


@pytest.fixture
def detached(monkeypatch) -> list[str]:
    """What was detached for threads."""
    seen: list[str] = []

    def watched(name: str) -> None:
        original: Any = getattr(sockets.DetachableProtocol, name)

        def watching(self: sockets.DetachableProtocol, *arguments: float) -> Any:
            seen.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(sockets.DetachableProtocol, name, watching)

    watched("detach_body")
    watched("detach_response")
    return seen


@pytest.mark.parametrize("size", [1, 700, 1 << 20])
async def test_a_chunked_upload_is_read_by_a_thread(port, store, transfers, detached, size):
    """However the chunks are cut; the connection then serves the next request."""
    body = tar_of({"a": b"1"}) if size == 1 else tar_of(LARGE)
    pieces = b"".join(chunk(body[at : at + size]) for at in range(0, len(body), size))
    answer = await talk(
        port,
        post() + pieces + END + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 ") == 2, answer[:500]
    assert detached == ["detach_body"]
    assert {run.status for run in store.memory.runs.values()} == {RunStatus.DONE}


async def test_a_client_that_waits_to_be_asked_is_asked(port, transfers):
    """`Expect: 100-continue` works as ever."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post("Expect: 100-continue", "Connection: close"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(chunk(tar_of(HELLO)) + END)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcd\r\n", b"\r\n"])
@pytest.mark.parametrize("linger_timeout", [0.2])
async def test_chunks_that_lie_are_refused(port, store, transfers, bad):
    """And the connection ends, since nobody knows where the next request begins."""
    answer = await talk(port, post() + chunk(tar_of(HELLO)[:600]) + bad + END + post())
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    await until(lambda: transfers.ended)
    assert_nothing_is_left(store, transfers)


async def test_a_refusal_comes_while_the_client_still_sends(port, store, transfers):
    """A client that sends on after a refusal is listened to for a moment, so that it can read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post() + chunk(b"<html>" * 200))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
    writer.write(chunk(os.urandom(100_000)))
    await writer.drain()
    writer.write(END)
    writer.transport.abort()
    await until(lambda: transfers.ended)
    assert_nothing_is_left(store, transfers)


async def test_a_body_that_nobody_wants_is_thrown_away(port, store):
    """It was held back until the app asks for it, and it never did; the next request is served."""
    head = post().replace(b"application/x-tar", b"text/plain")
    answer = await talk(
        port,
        head
        + chunk(b"x" * 1000)
        + END
        + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"HTTP/1.1 200 " in answer
    assert not store.memory.runs


async def test_a_client_that_leaves_within_a_json_body_changes_nothing(port, store, transfers):
    knit_id = a_data(store, transfers)
    before = replace(store.memory.data[knit_id])
    head = f"PUT /api/data/{knit_id} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answer = await talk(port, f"{head}Content-Length: 99\r\n\r\n{{".encode(), half_close=True)
    assert b" 200 " not in answer
    assert store.memory.data[knit_id] == before


@pytest.mark.parametrize("timeouts", [Timeouts(body=0.3)])
async def test_a_json_body_that_does_not_come_is_not_waited_for(port, store, transfers):
    knit_id = a_data(store, transfers)
    head = f"PUT /api/data/{knit_id} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answer = await talk(port, f"{head}Connection: close\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not come within 0.3 s" in answer


async def test_a_download_is_written_by_a_thread(port, store, transfers, detached):
    """Large files and small ones, in a proper chunked body."""
    knit_id = a_data(store, transfers, files=LARGE)
    response = await talk(port, get(knit_id, "Accept: application/x-tar"))
    content, _, complete = unchunked(response.partition(b"\r\n\r\n")[2])
    assert complete
    assert files_in(content) == LARGE
    assert detached == ["detach_response"]
    assert [ok for _, ok, _ in transfers.ended] == [True]


async def test_two_downloads_share_a_connection(port, store, transfers):
    """What the thread wrote did not confuse who counts the bytes."""
    knit_id = a_data(store, transfers, files=LARGE)
    one = get(knit_id, "Accept: application/x-tar").replace(b"Connection: close\r\n", b"")
    response = await talk(port, one + get(knit_id, "Accept: application/x-tar"))
    assert response.count(b"HTTP/1.1 200 ") == 2
    assert response.endswith(END)


async def test_a_file_that_changes_cuts_the_download(port, store, transfers, monkeypatch):
    """It was said to be larger: what was sent must not pass for the whole."""
    knit_id = a_data(store, transfers, files=LARGE)

    def shrinking(root):
        for item in original(root):
            if not isinstance(item, bytes):
                os.truncate(root / "large", 1000)
            yield item

    original = archive.iter_spans
    monkeypatch.setattr("knit_workflows.archive.iter_spans", shrinking)
    response = await talk(port, get(knit_id, "Accept: application/x-tar"))
    assert not response.endswith(END)
    await until(lambda: transfers.ended)
    assert transfers.failures


async def test_old_http_has_no_chunks(port, store, transfers, detached):
    """HTTP/1.0 gets the plain bytes, up to the end of the connection."""
    knit_id = a_data(store, transfers)
    request = get(knit_id, "Accept: application/x-tar").replace(b"HTTP/1.1", b"HTTP/1.0")
    response = await talk(port, request)
    assert files_in(response.partition(b"\r\n\r\n")[2]) == HELLO
    assert not detached
