"""POST /api/data: all of it with its tags, or a failed Run and nothing else."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from knit_api.deps import Timeouts
from knit_workflows import archive
from knit_workflows.disk import DiskSpace
from knit_workflows.domain.errors import Conflict, EngineUnavailable, TransferNotReady
from knit_workflows.domain.runs.run import RunStatus
from tests.api.access import with_token
from tests.api.archives import HELLO, HOSTILE, ODD, files_in, tar_of
from tests.api.fake_transfers import FakeTransfers
from tests.api.live_server import chunk, serving, talk
from tests.memory_store import MemoryStore
from tests.waiting import PATIENCE, until

GZIP = {"Content-Type": "application/tar+gzip"}
TAR = {"Content-Type": "application/x-tar"}


def stored(transfers: FakeTransfers, knit_id: str) -> dict[str, bytes]:
    root = transfers.folder(knit_id)
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def assert_nothing_is_left(store: MemoryStore, transfers: FakeTransfers) -> None:
    assert [run.status for run in store.memory.runs.values()] == [RunStatus.FAILED]
    assert [list(folder.iterdir()) for folder in transfers.root.iterdir()] == [[]]
    assert not transfers.open
    assert len(transfers.failures) == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (GZIP, gzip.compress(tar_of(HELLO))),
        (TAR, tar_of(HELLO)),
        ({"Content-Type": "Application/X-TAR; a=b"}, tar_of(HELLO)),
        (GZIP, gzip.compress(tar_of(HELLO)[:700]) + gzip.compress(tar_of(HELLO)[700:])),
        (GZIP, gzip.compress(tar_of(HELLO)) + bytes(100)),
    ],
    ids=["gzip", "plain", "type with parameters", "two gzip members", "zeros behind gzip"],
)
async def test_an_upload_becomes_a_done_data(client, store, transfers, headers, body):
    answer = await client.post("/data", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("\n")
    data = answer.json()
    assert data["upstream"]["run"]["status"] == "done"
    assert data["upstream"]["mountpoint"] == {"path": "/upload", "tags": []}
    assert f"knit#id:{data['knitId']}" in data["tags"]
    assert stored(transfers, data["knitId"]) == HELLO
    assert not transfers.open


async def test_tags_come_with_the_upload_before_it_is_done(client, store):
    answer = await client.post(
        "/data?tag=type:dataset&tag=project:%20a:b%20", content=tar_of(HELLO), headers=TAR
    )
    assert answer.status_code == 200
    assert "type:dataset" in answer.json()["tags"]
    assert "project:a:b" in answer.json()["tags"]
    assert store.memory.statuses_at_tagging == [RunStatus.RUNNING]


@pytest.mark.parametrize("tag", ["knit%23id:1", "no-colon", "a:b%00", "knit%23other:x"])
async def test_a_tag_that_is_none_is_refused_before_anything_is_made(client, store, tag):
    answer = await client.post(f"/data?tag={tag}", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 400
    assert answer.json()["message"]["advice"]
    assert not store.memory.runs


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "application/gzip"},
        {},
        GZIP | {"Content-Encoding": "br"},
    ],
)
async def test_other_media_types_are_refused(client, store, headers):
    answer = await client.post("/data", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert "application/tar+gzip" in answer.json()["message"]["advice"]
    assert not store.memory.runs


async def test_links_are_data_wherever_they_lead(client, transfers):
    answer = await client.post("/data", content=ODD, headers=TAR)
    assert answer.status_code == 200, answer.text
    root = transfers.folder(answer.json()["knitId"])
    links = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
    assert links == {
        "up": "../..", "again": "../..", "root": "/etc/passwd", "nowhere": "no/where",
    }  # fmt: skip
    assert (root / "pipe").is_fifo()
    assert (root / "empty").is_dir()
    answer = await client.get(f"/data/{root.name}", headers={"Accept": "application/x-tar"})
    assert files_in(answer.content) == {"good.txt": b"good"}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_or_broken_archive_is_refused_and_leaves_nothing(
    client, store, transfers, name
):
    media_type, body = HOSTILE[name]
    answer = await client.post("/data", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"]["reason"]
    assert answer.json()["message"]["advice"]
    assert_nothing_is_left(store, transfers)
    assert transfers.failures[0]


async def test_a_client_that_hangs_up_leaves_nothing(port, store, transfers):
    body = gzip.compress(tar_of({"big": bytes(100_000)}))
    head = b"POST /api/data HTTP/1.1\r\nHost: x\r\nContent-Type: application/tar+gzip\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + chunk(body[:50]))
    await writer.drain()
    await until(lambda: transfers.open)
    writer.transport.abort()
    await until(lambda: transfers.ended)
    assert_nothing_is_left(store, transfers)


async def test_a_body_cut_by_its_sender_leaves_nothing(port, store, transfers):
    """What the sender's own failure looks like: the connection ends without the last chunk."""
    head = b"POST /api/data HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    # Even when what came is a whole archive.
    await talk(port, head + chunk(tar_of(HELLO)), half_close=True)
    await until(lambda: transfers.ended)
    assert_nothing_is_left(store, transfers)


@pytest.mark.parametrize("linger_timeout", [0.5])
@pytest.mark.patient
async def test_a_silent_client_is_given_up_after_the_lease(port, store, transfers, set_lease):
    set_lease(0.5)
    head = b"POST /api/data HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    answer = await talk(port, head + chunk(tar_of(HELLO)[:600]))
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert_nothing_is_left(store, transfers)


async def test_the_lease_is_renewed_while_a_slow_client_sends(
    client, transfers, monkeypatch, set_lease
):
    """As often as the lease asks for; how long this client may be silent was settled before."""

    async def open_upload(*_: object, **__: object) -> object:
        set_lease(0.06)
        return await original()

    async def slowly() -> AsyncIterator[bytes]:
        yield tar_of(HELLO)[:600]
        await until(lambda: transfers.renewals >= 2)
        yield tar_of(HELLO)[600:]

    original = transfers.open_upload
    monkeypatch.setattr(transfers, "open_upload", open_upload)
    answer = await client.post("/data", content=slowly(), headers=TAR)
    assert answer.status_code == 200, answer.text


async def test_a_volume_with_content_is_a_conflict(client, store, transfers, monkeypatch):
    async def occupied(*_: object, **__: object) -> object:
        opened = await original()
        (transfers.folder(opened.knit_id) / "there").write_text("mine")
        return opened

    original = transfers.open_upload
    monkeypatch.setattr(transfers, "open_upload", occupied)
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 409
    assert [one.read_text() for one in transfers.root.rglob("there")] == ["mine"]
    assert transfers.failures


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 503), (errno.EILSEQ, 400)],
)
async def test_failures_of_the_disk_are_told_apart(
    client, store, transfers, monkeypatch, number, status
):
    def failing(source, root, **_):
        source.read(1)
        raise OSError(number, "no")

    monkeypatch.setattr(archive, "unpack", failing)
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == status
    assert answer.json()["message"]["advice"]
    assert ("the disk of " in answer.json()["message"]["reason"]) is (status == 507)
    assert_nothing_is_left(store, transfers)


@pytest.mark.patient
async def test_a_client_that_falls_silent_is_told_so(client, store, transfers, set_lease):
    """Also where there is no socket to read from, as behind TLS: the thread that waits is freed."""

    async def body() -> AsyncIterator[bytes]:
        yield tar_of(HELLO)[:600]
        await asyncio.sleep(PATIENCE)

    set_lease(0.3)
    answer = await client.post("/data", content=body(), headers=TAR)
    assert answer.status_code == 408
    assert answer.json()["message"]["reason"] == "the client sent nothing for too long"
    assert_nothing_is_left(store, transfers)


async def test_a_temporal_that_is_away_and_its_full_disk_are_both_reported(
    client, deps, store, transfers, tmp_path, monkeypatch
):
    """The disk is that of its database, which is measured only then."""
    object.__setattr__(deps, "disk", tmp_path)
    transfers.broken = EngineUnavailable()
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 503
    monkeypatch.setattr(DiskSpace, "of", lambda folder: DiskSpace(folder, 4096, 1 << 30))
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 507
    message = answer.json()["message"]
    assert message["reason"] == (
        f"Temporal does not answer; also, the disk of {tmp_path} has 4 KiB left"
    )
    assert "knit run rm" in message["advice"]
    assert not store.memory.runs


async def test_a_transfer_that_cannot_be_ended_is_left_to_its_lease(client, transfers, caplog):
    """The client hears of its own fault all the same."""
    transfers.finish_errors = [EngineUnavailable()]
    answer = await client.post("/data", content=b"no archive", headers=TAR)
    assert answer.status_code == 400
    assert "transfer could not be ended: EngineUnavailable" in caplog.text


@pytest.mark.parametrize("sent", ["0" * 32, "nonsense", ""])
async def test_a_wrong_checksum_is_refused_and_leaves_nothing(port, store, transfers, sent):
    body = gzip.compress(tar_of(HELLO))
    answer = await talk(port, with_trailer(body, sent))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"checksum" in answer
    assert_nothing_is_left(store, transfers)


@pytest.mark.parametrize("upper", [False, True])
async def test_the_right_checksum_is_of_the_bytes_as_sent(port, transfers, upper):
    body = gzip.compress(tar_of(HELLO))
    digest = hashlib.md5(body).hexdigest()
    answer = await talk(port, with_trailer(body, digest.upper() if upper else digest))
    assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_an_announced_checksum_that_was_lost_on_the_way_is_no_error(port):
    answer = await talk(port, with_trailer(gzip.compress(tar_of(HELLO)), None))
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def with_trailer(body: bytes, checksum: str | None) -> bytes:
    head = b"POST /api/data/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/tar+gzip\r\n"
    head += b"Connection: close\r\nTrailer: X-Checksum-Md5\r\nTransfer-Encoding: chunked\r\n\r\n"
    end = b"" if checksum is None else f"X-Checksum-MD5: {checksum}\r\n".encode()
    return head + chunk(body[:77]) + chunk(body[77:]) + b"0\r\n" + end + b"\r\n"


async def test_a_transfer_that_cannot_be_opened_is_503(client, store, transfers):
    transfers.broken = TransferNotReady(advice="wait")
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert not store.memory.runs


async def test_runs_are_throttled_for_an_upload(client, store):
    """Said before its endpoint is asked for: what opens it stands behind the Runs."""
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 200
    assert store.transfers.announced == 1


async def test_an_upload_stopped_by_a_user_is_a_conflict(client, store, transfers):
    async def body() -> AsyncIterator[bytes]:
        yield tar_of(HELLO)
        for run_id in list(store.memory.runs):
            store.set_status(run_id, RunStatus.ABORTING)

    answer = await client.post("/data", content=body(), headers=TAR)
    assert answer.status_code == 409
    assert answer.json()["message"]["see"] in store.memory.runs


async def test_a_client_hears_why_its_whole_upload_has_failed(client, store, transfers):
    """Somebody has deleted its volume meanwhile: it may push again."""
    transfers.volume_gone = "somebody has deleted the volume v meanwhile"
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 409
    told = answer.json()["message"]
    assert told["reason"] == f"the upload ended as failed: {transfers.volume_gone}"


@pytest.mark.patient
async def test_the_end_is_tried_again_while_temporal_is_away(client, transfers):
    transfers.finish_errors = [EngineUnavailable(), EngineUnavailable()]
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 200


@pytest.mark.parametrize("timeouts", [Timeouts(finish=0.1)])
async def test_content_stays_when_the_outcome_is_unknown(client, transfers):
    """The request to finish may have arrived: then the Data is done, and done is for ever."""
    transfers.finish_errors = [EngineUnavailable()] * 9
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 503
    knit_id = answer.json()["message"]["see"]
    assert stored(transfers, knit_id) == HELLO


OVER = Conflict("the transfer is over", advice="start anew")


async def test_content_goes_when_the_lease_had_run_out(client, store, transfers, monkeypatch):
    monkeypatch.setattr(transfers, "finish", ended_as(store, RunStatus.FAILED))
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 409
    assert [list(folder.iterdir()) for folder in transfers.root.iterdir()] == [[]]


async def test_content_stays_when_the_workflow_is_over_but_not_the_run(
    client, store, transfers, monkeypatch
):
    """Somebody ended the workflow while its Run was completing: the Data may yet become done."""
    monkeypatch.setattr(transfers, "finish", ended_as(store, RunStatus.COMPLETING))
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 409
    assert "look before you push again" in answer.json()["message"]["advice"]
    assert stored(transfers, answer.json()["message"]["see"]) == HELLO


async def test_an_upload_that_others_have_brought_to_its_end_is_done(
    client, store, transfers, monkeypatch
):
    monkeypatch.setattr(transfers, "finish", ended_as(store, RunStatus.DONE))
    answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 200
    assert stored(transfers, answer.json()["knitId"]) == HELLO


def ended_as(store, status):
    """Gives a `finish` that comes too late: the workflow is over, and the Run is at `status`."""

    async def finish(transfer, *, ok, reason=""):
        store.set_status(transfer.run_id, status)
        raise OVER

    return finish


@pytest.mark.patient
async def test_ending_the_server_in_the_middle_leaves_nothing(
    app: FastAPI, store: MemoryStore, transfers: FakeTransfers
):
    head = b"POST /api/data HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    feeding = None
    async with serving(with_token(app), grace=1) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)

        async def feed() -> None:
            block = tar_of({"big": bytes(10_000_000)})
            for start in range(0, len(block) // 2, 1000):
                writer.write(chunk(block[start : start + 1000]))
                await asyncio.sleep(0.05)

        feeding = asyncio.create_task(feed())
        await until(lambda: transfers.open)
    await until(lambda: transfers.ended)
    feeding.cancel()
    writer.close()
    assert_nothing_is_left(store, transfers)


@pytest.mark.patient
async def test_many_uploads_at_once_do_not_wait_for_slow_ones(
    client: httpx.AsyncClient, transfers: FakeTransfers
):
    release = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield tar_of(HELLO)
        await release.wait()

    slow = [
        asyncio.create_task(client.post("/data", content=stuck(), headers=TAR)) for _ in range(30)
    ]
    await until(lambda: len(transfers.open) == len(slow))
    async with asyncio.timeout(PATIENCE):
        answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
    assert answer.status_code == 200
    release.set()
    assert {answer.status_code for answer in await asyncio.gather(*slow)} == {200}
