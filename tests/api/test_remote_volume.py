"""Volumes behind a transfer agent: the API's side, with the real agent."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from knit_api.deps import Timeouts
from knit_api.transfers.volume_access import Threads, open_volume
from knit_workflows.domain.errors import TransferNotReady
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.runs.run import RunStatus
from tests.api.archives import HELLO, HOSTILE, files_in, tar_of
from tests.api.live_server import chunk, talk, unchunked
from tests.api.test_uploads import GZIP, TAR, with_trailer
from tests.waiting import PATIENCE, until

TOKEN = "a-secret"


@contextmanager
def agent(folder: Path, mode: str) -> Iterator[tuple[str, str]]:
    """Runs the agent on a folder; gives its endpoint and token. Its end waits for no request."""
    command = [sys.executable, "-m", "knit_workflows.pod.agent", "--path", folder, "--mode", mode]
    with subprocess.Popen(
        [*command, "--port", "0", "--grace", "0"],
        env={**os.environ, "KNIT_TRANSFER_TOKEN": TOKEN},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "on port" in line, line
            yield f"http://127.0.0.1:{line.split()[-1]}/", TOKEN
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def writer(volume: Path, transfers) -> Iterator[None]:
    with agent(volume, "write") as transfers.endpoint:
        yield


@pytest.fixture
def reader(volume: Path, transfers) -> Iterator[None]:
    for name, content in HELLO.items():
        (volume / name).parent.mkdir(exist_ok=True)
        (volume / name).write_bytes(content)
    with agent(volume, "read") as transfers.endpoint:
        yield


def content(volume: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(volume)): path.read_bytes()
        for path in volume.rglob("*")
        if path.is_file()
    }


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize(
    ("headers", "body"), [(GZIP, gzip.compress(tar_of(HELLO))), (TAR, tar_of(HELLO))]
)
async def test_an_upload_through_an_agent(client, volume, headers, body):
    answer = await client.post("/data", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert content(volume) == HELLO
    again = await client.post("/data", content=body, headers=headers)
    assert again.status_code == 409


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("name", ["a path above", "cut gzip", "not tar", "a second archive"])
async def test_what_is_refused_leaves_the_volume_empty(client, volume, transfers, name):
    media_type, body = HOSTILE[name]
    answer = await client.post("/data", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == 400, answer.text
    assert transfers.failures
    await until(lambda: not list(volume.iterdir()))
    # … and ready for the next one, once the agent has let go of the emptied volume.
    async with asyncio.timeout(PATIENCE):
        while (
            answer := await client.post("/data", content=tar_of(HELLO), headers=TAR)
        ).status_code == 409:
            await asyncio.sleep(0.01)
    assert answer.status_code == 200


@asynccontextmanager
async def responding(response: bytes) -> AsyncIterator[tuple[str, str]]:
    """Stands in for an agent that sends the same response to all; gives its endpoint and token."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", TOKEN


@pytest.mark.parametrize(
    ("line", "body", "status", "reason"),
    [
        (
            "507 Insufficient Storage",
            '{"reason": "No space left on device"}',
            507,
            "there is no room left in the Data's volume: No space left on device",
        ),
        (
            "502 Bad Gateway",
            "<html>a proxy's own page</html>",
            503,
            "the volume's agent failed: the transfer agent answered 502",
        ),
        (
            "",
            "",
            503,
            "the volume's transfer agent is lost: it closed the connection without a response",
        ),
        (
            "what is this?",
            "",
            503,
            "the volume's transfer agent is lost: "
            "it broke its response off, or something else answers in its place",
        ),
    ],
)
async def test_what_an_agent_responds_becomes_a_domain_error(
    client, transfers, line, body, status, reason
):
    head = f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    async with responding((head + body).encode() if line else b"") as transfers.endpoint:
        answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == status
    assert answer.json()["message"]["reason"] == reason


async def test_a_transfer_has_an_endpoint_or_is_not_ready():
    record = TransferRecord("t", KnitId("k"), RunId(""), "v", "read", token="", endpoint="")
    with pytest.raises(TransferNotReady):
        open_volume(record, Threads.start(), httpx.AsyncClient)


@pytest.mark.usefixtures("writer")
async def test_a_wrong_checksum_never_completes_the_agents_body(port, volume, transfers):
    answer = await talk(port, with_trailer(gzip.compress(tar_of(HELLO)), "0" * 32))
    assert answer.startswith(b"HTTP/1.1 400 ")
    await until(lambda: not list(volume.iterdir()))


@pytest.mark.usefixtures("writer")
async def test_a_client_that_hangs_up_is_passed_on(port, volume, transfers):
    head = b"POST /api/data HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    _, stream = await asyncio.open_connection("127.0.0.1", port)
    stream.write(head + chunk(tar_of(HELLO)[:600]))
    await until(lambda: list(volume.iterdir()))
    stream.transport.abort()
    await until(lambda: transfers.ended and not list(volume.iterdir()))
    assert transfers.failures


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("accept", ["application/x-tar", "application/tar+gzip"])
async def test_a_download_through_an_agent(client, store, transfers, accept):
    knit_id = store.add_run().outputs[0].knit_id
    answer = await client.get(f"/data/{knit_id}", headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    body = answer.content if accept == "application/x-tar" else gzip.decompress(answer.content)
    assert files_in(body) == HELLO
    assert not transfers.open


async def test_an_agent_that_dies_in_the_middle_cuts_the_download(port, store, transfers, volume):
    (volume / "big").write_bytes(os.urandom(1))
    os.truncate(volume / "big", 1 << 30)
    knit_id = store.add_run().outputs[0].knit_id
    with agent(volume, "read") as transfers.endpoint:
        stream, out = await asyncio.open_connection("127.0.0.1", port)
        request = (
            f"GET /api/data/{knit_id} HTTP/1.1\r\nHost: x\r\nAccept: application/x-tar\r\n\r\n"
        )
        out.write(request.encode())
        await stream.read(1 << 20)
    rest = await asyncio.wait_for(stream.read(), PATIENCE)
    out.close()
    assert not rest.endswith(b"0\r\n\r\n")
    await until(lambda: transfers.failures)


async def test_no_agent_is_503(client, store, transfers):
    transfers.endpoint = ("http://127.0.0.1:1/", TOKEN)
    knit_id = store.add_run().outputs[0].knit_id
    pulled = await client.get(f"/data/{knit_id}")
    pushed = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    for answer in (pulled, pushed):
        assert answer.status_code == 503
        reason = answer.json()["message"]["reason"]
        assert reason == "the volume's transfer agent is lost: it accepts no connection"
    assert len(transfers.failures) == 2


@pytest.mark.usefixtures("writer")
async def test_a_wrong_token_is_no_answer_to_the_client(client, transfers):
    transfers.endpoint = (transfers.endpoint[0], "wrong")
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 503
    assert TOKEN not in answer.text


@pytest.mark.parametrize("timeouts", [Timeouts(log_poll_interval=0.05)])
@pytest.mark.patient
async def test_a_log_through_an_agent(client, port, store, transfers, volume):
    (volume / "log").write_text("one\n")
    run_id = store.add_run(RunStatus.RUNNING, log=True).summary.run_id
    with agent(volume, "read") as transfers.endpoint:
        assert (await client.get(f"/runs/{run_id}/log")).text == "one\n"
        stream, out = await asyncio.open_connection("127.0.0.1", port)
        out.write(f"GET /api/runs/{run_id}/log?follow HTTP/1.1\r\nHost: x\r\n".encode())
        out.write(b"Connection: close\r\n\r\n")
        await stream.readuntil(b"one\n")
        with (volume / "log").open("a") as log:
            log.write("two\n")
        await asyncio.wait_for(stream.readuntil(b"two\n"), PATIENCE)
        store.set_status(run_id, RunStatus.DONE)
        rest = await asyncio.wait_for(stream.read(), PATIENCE)
        out.close()
        await until(lambda: not transfers.open)
    assert unchunked(rest.partition(b"\r\n")[2])[2]


@pytest.mark.patient
async def test_the_agents_answer_comes_through_while_the_client_still_sends(
    client, transfers, volume
):
    """A full volume, say: the client must not push a terabyte before it learns of it."""
    (volume / "there").write_text("x")

    async def endless() -> AsyncIterator[bytes]:
        yield tar_of({"a": bytes(1000)})[:512]
        while True:
            await asyncio.sleep(0.001)
            yield bytes(100_000)

    with agent(volume, "write") as transfers.endpoint:
        async with asyncio.timeout(PATIENCE):
            answer = await client.post("/data", content=endless(), headers=TAR)
    assert answer.status_code == 409


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("accept", ["application/x-tar", "application/tar+gzip"])
async def test_a_download_through_an_agent_has_a_length_over_http_1_0(port, store, accept):
    knit_id = store.add_run(RunStatus.DONE).outputs[0].knit_id
    request = f"GET /api/data/{knit_id} HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
    head, _, body = (await talk(port, request.encode())).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert files_in(gzip.decompress(body) if "gzip" in accept else body) == HELLO


@pytest.mark.usefixtures("reader")
@pytest.mark.patient
async def test_a_log_through_an_agent_has_a_length_and_an_offset(port, store):
    run = store.add_run(RunStatus.DONE, log=True)
    whole = b"".join(content for _, content in sorted(HELLO.items()))
    for offset in (0, 7, len(whole)):
        path = f"/api/runs/{run.summary.run_id}/log?offset={offset}"
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, _, body = (await talk(port, request.encode())).partition(b"\r\n\r\n")
        assert f"content-length: {len(whole) - offset}".encode() in head.lower()
        assert body == whole[offset:]


@contextmanager
def bare_agent(answer: bytes) -> Iterator[tuple[str, str]]:
    """Something that answers each request so, and closes: an agent that is cut, or is none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        asked = connection.recv(1 << 16)
                        if asked.startswith(b"HEAD"):
                            connection.sendall(
                                HEAD + b"Content-Length: %d\r\n\r\n" % (len(WHOLE) + 1)
                            )
                        else:
                            connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", TOKEN
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


WHOLE = tar_of(HELLO)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(WHOLE), WHOLE),
        HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(WHOLE) + 1, WHOLE),
        HEAD + b"\r\n" + WHOLE,
    ],
    ids=["without the last chunk", "shorter than its length", "to the close"],
)
@pytest.mark.parametrize("what", ["data", "log"])
async def test_an_agent_whose_answer_is_not_known_to_be_whole(port, store, transfers, answer, what):
    """All of it may be there, but nothing says so; neither does what the API passes on."""
    run = store.add_run(RunStatus.DONE, log=True)
    path = f"data/{run.outputs[0].knit_id}" if what == "data" else f"runs/{run.summary.run_id}/log"
    with bare_agent(answer) as transfers.endpoint:
        request = f"GET /api/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, _, body = (await talk(port, request.encode())).partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200 "):
        assert not unchunked(body)[2]
    else:
        assert head.startswith(b"HTTP/1.1 503 ")
    assert transfers.failures
