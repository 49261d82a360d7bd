"""GET /api/data/{id}: the content as an archive, or visibly not."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from knit_api.deps import Timeouts
from knit_api.responses import ResponseAborted, StreamedResponse
from knit_api.transfers.direct_archive import DirectArchiveResponse
from knit_workflows.archive.zstd import zstd
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, EngineUnavailable
from knit_workflows.domain.runs.run import RunStatus
from tests.api.archives import HELLO, files_in
from tests.api.fake_transfers import UNKNOWN, FakeTransfers
from tests.api.live_server import talk, unchunked
from tests.memory_store import MemoryStore
from tests.waiting import until


def a_data(store: MemoryStore, transfers: FakeTransfers, status=RunStatus.DONE, files=HELLO) -> str:
    knit_id = store.add_run(status).outputs[0].knit_id
    for name, content in files.items():
        path = transfers.folder(knit_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return knit_id


def get(knit_id: str, *headers: str) -> bytes:
    lines = [f"GET /api/data/{knit_id} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "application/tar+gzip", "application/tar+gzip, application/x-tar;q=0.5", "text/x"],
)
async def test_gzip_is_the_default(client, store, transfers, accept):
    answer = await client.get(f"/data/{a_data(store, transfers)}", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/tar+gzip"
    assert "content-length" not in answer.headers
    assert files_in(gzip.decompress(answer.content)) == HELLO
    assert [ok for _, ok, _ in transfers.ended] == [True]
    assert not transfers.open


async def test_plain_tar_for_who_asks_for_it(client, store, transfers):
    answer = await client.get(
        f"/data/{a_data(store, transfers)}/", headers={"Accept": "application/x-tar"}
    )
    assert answer.headers["content-type"] == "application/x-tar"
    assert files_in(answer.content) == HELLO
    assert "trailer" not in answer.headers


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.patient
async def test_a_plain_tar_is_compressed_for_who_wants_it(client, port, store, transfers, detached):
    """By the thread that writes to the connection, and by the app, as behind TLS."""
    files = {"text": b"a line\n" * 500_000, "random": os.urandom(3 << 20), "tiny": b"x"}
    knit_id = a_data(store, transfers, files=files)
    wanted = {"Accept": "application/x-tar", "Accept-Encoding": "zstd, identity;q=0.5"}
    if detached:
        lines = [f"{name}: {value}" for name, value in wanted.items()]
        head, _, body = (await talk(port, get(knit_id, *lines))).partition(b"\r\n\r\n")
        content, _, complete = unchunked(body)
        assert complete
        assert b"content-encoding: zstd" in head.lower()
        assert b"vary: accept, accept-encoding" in head.lower()
    else:
        async with client.stream("GET", f"/data/{knit_id}", headers=wanted) as answer:
            assert answer.headers["content-encoding"] == "zstd"
            content = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert files_in(zstd.decompress(content)) == files
    assert transfers.ended
    assert not transfers.open


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "application/x-tar", "Accept-Encoding": "gzip"},
        {"Accept": "application/x-tar", "Accept-Encoding": "zstd;q=0.1, identity"},
        {"Accept": "application/tar+gzip", "Accept-Encoding": "zstd"},
    ],
)
async def test_others_get_their_archive_as_it_is(client, store, transfers, headers):
    answer = await client.get(f"/data/{a_data(store, transfers)}", headers=headers)
    assert "content-encoding" not in answer.headers
    content = answer.content
    if "gzip" in headers["Accept"]:
        content = gzip.decompress(content)
    assert files_in(content) == HELLO


async def test_over_http_1_0_nothing_is_compressed_on_its_way(port, store, transfers):
    """Its length would not be known."""
    request = get(a_data(store, transfers), "Accept: application/x-tar", "Accept-Encoding: zstd")
    answer = await talk(port, request.replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-encoding" not in head.lower()
    assert files_in(body) == HELLO


async def test_the_checksum_of_what_was_sent_comes_behind_it(port, store, transfers):
    head, _, body = (await talk(port, get(a_data(store, transfers)))).partition(b"\r\n\r\n")
    content, sent, complete = unchunked(body)
    assert complete
    assert b"trailer: x-checksum-md5" in head.lower()
    assert sent == {"x-checksum-md5": hashlib.md5(content).hexdigest()}


@pytest.mark.parametrize(
    "status",
    [RunStatus.READY, RunStatus.RUNNING, RunStatus.COMPLETING, RunStatus.ABORTING,
     RunStatus.FAILED],
)  # fmt: skip
async def test_unfinished_and_failed_data_can_be_had(client, store, transfers, status):
    answer = await client.get(f"/data/{a_data(store, transfers, status)}")
    assert answer.status_code == 200


@pytest.mark.parametrize("status", [RunStatus.WAITING, RunStatus.DEACTIVATED])
async def test_without_a_volume_it_is_too_early(client, store, transfers, status):
    answer = await client.get(f"/data/{a_data(store, transfers, status)}")
    assert answer.status_code == 503
    assert answer.json()["message"]["advice"]
    assert not transfers.ended


@pytest.mark.parametrize("knit_id", [UNKNOWN, "x", "%00", "..%2F..", "%ff" * 30])
async def test_unknown_data_is_404(client, knit_id):
    answer = await client.get(f"/data/{knit_id}")
    assert answer.status_code == 404
    assert answer.json()["message"]["reason"]


async def test_data_that_never_got_content_is_404(client, store, transfers):
    """Aborted before its volume was made."""
    answer = await client.get(f"/data/{store.add_run(RunStatus.FAILED).outputs[0].knit_id}")
    assert answer.status_code == 404
    assert transfers.ended
    assert not transfers.open


def odd_volume(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty").chmod(0o750)
    (folder / "up").symlink_to("../..")
    os.mkfifo(folder / "pipe")
    (folder / "holes").touch()
    os.truncate(folder / "holes", 1 << 20)
    os.mknod(folder / "s", stat.S_IFSOCK | 0o600)


KNITFAB = [("holes", b"0"), ("up", b"2")]
ALL = [("empty", b"5"), ("holes", b"0"), ("pipe", b"6"), ("up", b"2")]


@pytest.mark.parametrize(
    ("accept", "entries", "holes"),
    [
        ("", KNITFAB, False),
        ("application/x-tar", KNITFAB, False),
        ("application/tar+gzip", KNITFAB, False),
        ("application/x-tar;entries=all", ALL, False),
        ("application/tar+gzip; entries=all", ALL, False),
        ("application/x-tar;entries=all;holes=kept, application/tar+gzip;q=0.5", ALL, True),
        ("application/x-tar;entries=some;holes=kept", KNITFAB, True),
    ],
)
async def test_folders_and_holes_go_only_to_who_asks_for_them(
    client, store, transfers, accept, entries, holes
):
    """Knitfab's client makes a file of every entry that is no link, a global header included."""
    knit_id = a_data(store, transfers, files={})
    transfers.folder(knit_id).mkdir(parents=True)
    odd_volume(transfers.folder(knit_id))
    answer = await client.get(f"/data/{knit_id}", headers={"Accept": accept})
    assert answer.status_code == 200
    content = answer.content
    if answer.headers["Content-Type"] == "application/tar+gzip":
        content = gzip.decompress(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        found = opened.getmembers()
    assert [(one.name, one.type) for one in found] == entries
    assert [one.name for one in found if one.issparse()] == ["holes"] * holes
    assert (b"comment=left out by knit: socket: s\n" in content) == (entries == ALL)


@pytest.mark.parametrize("error", [EngineUnavailable(), BackendUnavailable()])
async def test_a_transfer_that_cannot_be_opened_is_503(client, store, transfers, error):
    transfers.broken = error
    answer = await client.get(f"/data/{a_data(store, transfers)}")
    assert answer.status_code == 503


async def test_runs_are_throttled_for_a_download(client, store, transfers):
    answer = await client.get(f"/data/{a_data(store, transfers)}")
    assert answer.status_code == 200
    assert store.transfers.announced == 1


async def test_a_failure_before_the_first_byte_is_a_proper_answer(client, store, transfers):
    knit_id = a_data(store, transfers, files={})
    loop = transfers.folder(knit_id)
    loop.parent.mkdir(exist_ok=True)
    loop.symlink_to(loop)
    answer = await client.get(f"/data/{knit_id}")
    assert answer.status_code == 503
    assert "cannot be read" in answer.json()["message"]["reason"]
    assert transfers.failures


@pytest.mark.parametrize(
    "accept",
    ["application/x-tar", "application/tar+gzip", "application/x-tar\r\nAccept-Encoding: zstd"],
)
@pytest.mark.patient
async def test_a_failure_in_the_middle_cuts_the_connection(port, store, transfers, accept):
    knit_id = a_data(store, transfers, files={"a": os.urandom(3 << 20)})
    changing = transfers.folder(knit_id) / "b"
    changing.touch()
    os.truncate(changing, 1 << 30)

    def change(received: int) -> None:
        if received > (3 << 20) + (64 << 10):
            os.truncate(changing, 0)

    response = await talk(port, get(knit_id, f"Accept: {accept}"), meanwhile=change)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    content, sent, complete = unchunked(body)
    assert len(content) > 1 << 20
    assert not complete
    assert not sent
    assert transfers.failures
    assert not transfers.open


async def test_a_client_that_hangs_up_ends_the_transfer(port, store, transfers, tmp_path):
    knit_id = a_data(store, transfers, files={})
    large(transfers.folder(knit_id) / "big")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get(knit_id, "Accept: application/x-tar"))
    await reader.read(100_000)
    writer.transport.abort()
    await until(lambda: transfers.ended)
    assert transfers.failures
    assert not transfers.open


@pytest.mark.parametrize("linger_timeout", [0.3])
@pytest.mark.parametrize("timeouts", [Timeouts(write=0.5)])
@pytest.mark.patient
async def test_a_client_that_takes_nothing_is_given_up(port, store, transfers, set_lease):
    set_lease(0.06)
    knit_id = a_data(store, transfers, files={})
    large(transfers.folder(knit_id) / "big")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get(knit_id, "Accept: application/x-tar"))
    await until(lambda: transfers.ended)
    assert transfers.failures
    assert transfers.renewals >= 1
    got = b""
    while piece := await reader.read(1 << 20):
        got += piece
    assert len(got) < 64 << 20
    assert not got.endswith(b"0\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("linger_timeout", [0.3])
@pytest.mark.parametrize("timeouts", [Timeouts(write=0.5)])
@pytest.mark.patient
async def test_a_reader_of_a_log_that_takes_nothing_is_given_up(port, store, transfers):
    run = store.add_run(RunStatus.DONE, log=True)
    large(transfers.folder(run.log.knit_id) / "log")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = f"/api/runs/{run.summary.run_id}/log"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await until(lambda: transfers.ended)
    assert transfers.failures == ["the client no longer takes anything"]
    got = 0
    while piece := await reader.read(1 << 20):
        got += len(piece)
    assert got < 64 << 20
    writer.close()


@pytest.mark.parametrize("stuck", ["http.response.start", "http.response.body"])
async def test_a_client_that_does_not_take_the_last_bytes_is_given_up(stuck):
    """What was sent before is in buffers: the next message, if only the end, waits for room."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"all of it"

    async def send(message: dict[str, object]) -> None:
        ends = not message.get("more_body") and message["type"] == "http.response.body"
        if message["type"] == stuck and (ends or stuck == "http.response.start"):
            await asyncio.Event().wait()

    response = StreamedResponse(chunks(), AsyncExitStack(), "text/plain", write_timeout=0.05)
    scope = {"type": "http", "http_version": "1.1", "extensions": {}}
    with pytest.raises(ResponseAborted, match="no longer takes anything"):
        await response(scope, asyncio.Event().wait, send)


@pytest.mark.patient
async def test_a_slow_client_has_the_time_for_each_piece_of_a_chunk():
    """It takes something all the while, and the whole chunk in more than the time-out."""
    got: list[bytes] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"x" * (1 << 20)

    async def send(message: dict[str, object]) -> None:
        await asyncio.sleep(0.15)
        got.append(message.get("body", b""))  # type: ignore[arg-type]

    scope = {"type": "http", "http_version": "1.1", "extensions": {}}
    for _ in range(5):  # this process itself may be held up for so long
        got.clear()
        response = StreamedResponse(chunks(), AsyncExitStack(), "text/plain", write_timeout=1.5)
        with suppress(ResponseAborted):
            await response(scope, asyncio.Event().wait, send)
            break
    assert len(b"".join(got)) == 1 << 20


async def test_an_archive_for_a_client_that_has_gone_is_not_begun():
    """It left between the request and the first byte: nobody is taken for having got it."""
    sent: list[object] = []
    closed: list[bool] = []

    def spans() -> Generator[bytes, None, None]:
        try:
            yield b"never asked for"
        finally:
            closed.append(True)

    async def send(message: dict[str, object]) -> None:
        sent.append(message["type"])

    resources = AsyncExitStack()
    resources.callback(closed.append, True)
    with ThreadPoolExecutor(1) as threads:
        response = DirectArchiveResponse(
            b"first", spans(), resources, "application/x-tar", threads, write_timeout=9
        )
        scope = {"type": "http", "http_version": "1.1", "extensions": {}}
        with pytest.raises(ResponseAborted, match="the client left"):
            await response(scope, asyncio.Event().wait, send)
    assert sent == ["http.response.start"]
    assert closed


def large(path: Path) -> None:
    """Far more than all buffers between here and a client, and yet nothing on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(1 << 30)


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(RunStatus.FAILED, 404), (RunStatus.ABORTING, 404), (RunStatus.DONE, 500)],
)
@pytest.mark.parametrize("what", ["data", "log"])
async def test_a_run_stopped_before_it_began_has_no_content(
    client, store, transfers, status, wanted, what
):
    """It never had volumes, which is nobody's fault; that a done one's is missing is a fault."""
    run = store.add_run(status, log=True)
    transfers.broken = BackendRejected("there is no volume")
    path = (
        f"/data/{run.outputs[0].knit_id}" if what == "data" else f"/runs/{run.summary.run_id}/log"
    )
    answer = await client.get(path)
    assert answer.status_code == wanted, answer.text
    assert answer.json()["message"]["advice"]
