"""GET /api/runs/{id}/log: what there is, or also what is still being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from knit_api.deps import Deps, Timeouts
from knit_api.transfers.local_volume import LocalVolume
from knit_api.transfers.run_log import log_of
from knit_workflows.domain.errors import BackendUnavailable, StoreUnavailable, TransferNotReady
from knit_workflows.domain.runs.run import DISRUPTED, RunStatus, Waiting, WaitKind
from tests.api.fake_transfers import FakeTransfers
from tests.memory_store import MemoryStore, new_id
from tests.waiting import PATIENCE, until

S = RunStatus


@pytest.fixture
def timeouts() -> Timeouts:
    return Timeouts(log_poll_interval=0.05, log_idle=0.1, log_idle_while_ending=PATIENCE)


def a_run(store: MemoryStore, transfers: FakeTransfers, status: RunStatus, text: str | None = None):
    run = store.add_run(status, log=True)
    folder = transfers.folder(run.log.knit_id)
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "log").write_text(text)
    return run.summary.run_id, folder


@pytest.mark.parametrize("query", ["", "?follow"])
@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (S.DEACTIVATED, 503), (S.WAITING, 503), (S.READY, 503), (S.STARTING, 200),
        (S.RUNNING, 200), (S.COMPLETING, 200), (S.ABORTING, 200), (S.DONE, 200), (S.FAILED, 200),
        (S.INVALIDATED, 404),
    ],
)  # fmt: skip
@pytest.mark.patient
async def test_every_status_has_its_answer(client, store, transfers, status, wanted, query):
    run_id, _ = a_run(store, transfers, status, "so far\n")
    asking = asyncio.create_task(client.get(f"/runs/{run_id}/log{query}"))
    await asyncio.sleep(0.05)
    store.set_status(run_id, S.DONE if wanted == 200 else status)
    answer = await asking
    assert answer.status_code == wanted
    if wanted == 200:
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.text == "so far\n"
        assert not transfers.open
    else:
        assert answer.json()["message"]["advice"]
        assert not transfers.ended


def test_a_run_that_is_stuck_says_why_instead_of_opening_its_log(store):
    """Its log volume may never come to exist; how a container that nobody sees fares is unknown."""
    run = store.add_run(S.STARTING, log=True)
    full = Waiting(None, "the quota q is used up", WaitKind.UNSCHEDULABLE, "QuotaExceeded")
    with pytest.raises(TransferNotReady, match=r"\[QuotaExceeded\] the quota q is used up"):
        log_of(replace(run, waiting=full))
    for kind in (WaitKind.BACKEND, WaitKind.PROGRESS):
        assert log_of(replace(run, waiting=Waiting(None, "no answer", kind))) == run.log.knit_id


async def test_a_plan_without_log_and_an_unknown_run_are_404(client, store):
    run = store.add_run(S.DONE)
    for run_id in (run.summary.run_id, new_id(), "x"):
        assert (await client.get(f"/runs/{run_id}/log")).status_code == 404


async def test_all_files_of_a_log_data_are_joined_in_order(client, store, transfers):
    run_id, folder = a_run(store, transfers, S.DONE, "two\n")
    (folder / "before").write_text("one\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "z").write_text("three\n")
    assert (await client.get(f"/runs/{run_id}/log/")).text == "one\ntwo\nthree\n"


async def test_an_empty_log_is_an_empty_answer(client, store, transfers):
    run_id, _ = a_run(store, transfers, S.DONE)
    answer = await client.get(f"/runs/{run_id}/log")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_run_that_never_had_a_volume_is_404(client, store, transfers):
    run_id, folder = a_run(store, transfers, S.FAILED)
    folder.rmdir()
    assert (await client.get(f"/runs/{run_id}/log")).status_code == 404


@pytest.mark.patient
async def test_following_shows_each_line_as_it_comes_and_ends_with_the_run(port, store, transfers):
    """The file need not be there yet; what comes at the very end is not lost."""
    run_id, folder = a_run(store, transfers, S.STARTING)
    reader, writer = await follow(port, run_id)
    await reader.readuntil(b"\r\n\r\n")
    with (folder / "log").open("w") as log:
        for line in ("one\n", "two\n"):
            log.write(line)
            log.flush()
            assert await asyncio.wait_for(reader.readuntil(line.encode()), PATIENCE)
        store.set_status(run_id, S.RUNNING)
        await asyncio.sleep(0.2)
        log.write("last words\n")
        store.set_status(run_id, S.DONE)
    rest = await asyncio.wait_for(reader.read(), PATIENCE)
    assert b"last words\n" in rest
    assert rest.endswith(b"0\r\n\r\n")
    writer.close()
    await until(lambda: not transfers.open)


@pytest.mark.parametrize("timeouts", [Timeouts(log_poll_interval=0.05, log_idle_while_ending=0.1)])
@pytest.mark.patient
async def test_a_disrupted_run_is_not_followed_any_longer(client, store, transfers):
    """It is launched again only once nobody reads its log."""
    run_id, _ = a_run(store, transfers, S.RUNNING, "so far\n")
    disrupted = Waiting(None, "evicted", WaitKind.PROGRESS, code=DISRUPTED)
    store.memory.runs[run_id].waiting = disrupted
    answer = await asyncio.wait_for(client.get(f"/runs/{run_id}/log?follow"), PATIENCE)
    assert answer.text == "so far\n"


@pytest.mark.patient
async def test_a_stopped_run_may_have_a_last_word(port, store, transfers):
    run_id, folder = a_run(store, transfers, S.RUNNING, "begun\n")
    reader, writer = await follow(port, run_id)
    await reader.readuntil(b"begun\n")
    store.set_status(run_id, S.COMPLETING)
    await asyncio.sleep(0.3)
    with (folder / "log").open("a") as log:
        log.write("SIGTERM taken\n")
    await reader.readuntil(b"SIGTERM taken\n")
    store.set_status(run_id, S.DONE)
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"0\r\n\r\n")
    writer.close()


@pytest.mark.patient
async def test_following_outlives_a_store_that_is_away(port, store, transfers):
    run_id, folder = a_run(store, transfers, S.RUNNING, "one\n")
    reader, writer = await follow(port, run_id)
    await reader.readuntil(b"one\n")
    store.memory.broken = StoreUnavailable()
    await asyncio.sleep(0.2)
    with (folder / "log").open("a") as log:
        log.write("two\n")
    await asyncio.wait_for(reader.readuntil(b"two\n"), PATIENCE)
    store.memory.broken = None
    store.set_status(run_id, S.FAILED)
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"0\r\n\r\n")
    writer.close()


@pytest.mark.patient
async def test_a_look_that_took_long_is_not_the_last(client, store, transfers, monkeypatch):
    """It may have been made before the last words were written, however late its answer came."""
    run_id, _ = a_run(store, transfers, S.RUNNING)

    async def followed(_: LocalVolume) -> AsyncIterator[bytes]:
        store.set_status(run_id, S.DONE)
        await asyncio.sleep(1)  # longer than a Run that has ended may be silent
        yield b""
        yield b"last words\n"
        while True:
            await asyncio.sleep(0.01)
            yield b""

    async def content_bytes(_: LocalVolume) -> int:
        return len("last words\n")

    monkeypatch.setattr(LocalVolume, "followed", followed)
    monkeypatch.setattr(LocalVolume, "content_bytes", content_bytes)
    assert (await client.get(f"/runs/{run_id}/log?follow")).text == "last words\n"


@pytest.mark.parametrize("says", [10, 20, 5, None])
async def test_a_log_whose_agent_has_gone_silent_is_not_complete(
    port, store, transfers, monkeypatch, says
):
    """Its Run is over, and half of what there is has come; or nobody says how much there is."""
    run_id, _ = a_run(store, transfers, S.RUNNING)

    async def followed(_: LocalVolume) -> AsyncIterator[bytes]:
        yield b"0123456789"
        store.set_status(run_id, S.DONE)
        while True:
            await asyncio.sleep(0.01)
            yield b""

    async def content_bytes(_: LocalVolume) -> int:
        if says is None:
            raise BackendUnavailable
        return says

    monkeypatch.setattr(LocalVolume, "followed", followed)
    monkeypatch.setattr(LocalVolume, "content_bytes", content_bytes)
    reader, writer = await follow(port, run_id)
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert b"0123456789" in answer
    assert answer.endswith(b"0\r\n\r\n") is (says in (5, 10))


@pytest.mark.patient
async def test_a_deleted_run_ends_the_following(port, store, transfers):
    run_id, _ = a_run(store, transfers, S.RUNNING, "one\n")
    reader, writer = await follow(port, run_id)
    await reader.readuntil(b"one\n")
    del store.memory.runs[run_id]
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_follower_who_leaves_a_silent_run_is_noticed(port, store, transfers):
    run_id, _ = a_run(store, transfers, S.RUNNING)
    _, writer = await follow(port, run_id)
    await until(lambda: transfers.open)
    writer.transport.abort()
    await until(lambda: not transfers.open)


async def test_followers_do_not_outlive_the_server(port, store, transfers, deps: Deps):
    run_id, _ = a_run(store, transfers, S.RUNNING, "one\n")
    reader, writer = await follow(port, run_id)
    await reader.readuntil(b"one\n")
    deps.stopping.set()
    rest = await asyncio.wait_for(reader.read(), PATIENCE)
    assert not rest.endswith(b"0\r\n\r\n")  # the log goes on, elsewhere
    writer.close()


@pytest.mark.patient
async def test_many_followers_leave_room_for_others(client: httpx.AsyncClient, store, transfers):
    run_id, _ = a_run(store, transfers, S.RUNNING, "one\n")
    following = [asyncio.create_task(client.get(f"/runs/{run_id}/log?follow")) for _ in range(50)]
    await until(lambda: len(transfers.open) == len(following))
    done_id, _ = a_run(store, transfers, S.DONE, "other\n")
    answer = await asyncio.wait_for(client.get(f"/runs/{done_id}/log"), PATIENCE)
    assert answer.text == "other\n"
    store.set_status(run_id, S.DONE)
    assert {answer.text for answer in await asyncio.gather(*following)} == {"one\n"}


async def follow(port: int, run_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /api/runs/{run_id}/log?follow=false HTTP/1.1\r\nHost: x\r\n"
    writer.write(request.encode() + b"Connection: close\r\n\r\n")
    return reader, writer


@pytest.mark.patient
async def test_a_link_in_place_of_the_log_is_not_followed(client, store, transfers, tmp_path: Path):
    run_id, folder = a_run(store, transfers, S.RUNNING)
    (tmp_path / "secret").write_text("secret")
    (folder / "log").symlink_to(tmp_path / "secret")
    asking = asyncio.create_task(client.get(f"/runs/{run_id}/log?follow"))
    await asyncio.sleep(0.2)
    store.set_status(run_id, S.DONE)
    try:
        answer = await asking
        assert "secret" not in answer.text
    except Exception as error:  # the response may be cut
        assert "secret" not in str(error)
