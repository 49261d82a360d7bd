"""`TransferStore`: the Run of an upload, and one row per open transfer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from knit_workflows.domain.errors import DataExists, DataNotFound, IllegalMove, NotFound
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.readers import MOST_READERS, Left
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import begin, end, upload


async def test_an_upload_is_a_running_run_of_its_plan(store: AnyStore) -> None:
    run_id, knit_id = new_ids()
    record = await store.transfers.begin_upload("t1", run_id, knit_id)
    assert (record.transfer_id, record.knit_id, record.run_id) == ("t1", knit_id, run_id)
    assert (record.mode, record.endpoint) == ("write", "")
    assert record.volume == f"data-knitid-{knit_id}"
    assert len(record.token) >= 32
    run = await store.runs.get(run_id)
    assert run.summary.status is RunStatus.RUNNING
    assert run.summary.plan.name == "knit#uploaded"
    assert run.inputs == ()
    assert [one.knit_id for one in run.outputs] == [knit_id]
    data = await store.data.get(knit_id)
    assert Tag("knit#transient", "processing") in data.tags
    assert (data.upstream.path, data.upstream.run.run_id) == ("/upload", run_id)


async def test_beginning_again_or_at_once_gives_the_same_record(store: AnyStore) -> None:
    run_id, knit_id = new_ids()
    records = await asyncio.gather(
        *(store.transfers.begin_upload("t1", run_id, knit_id) for _ in range(5))
    )
    assert len(set(records)) == 1
    await store.transfers.opened("t1", "http://pod:8080")
    again = await store.transfers.begin_upload("t1", run_id, knit_id)
    assert again.endpoint == "http://pod:8080"
    assert again.token == records[0].token
    assert await store.transfers.get("t1") == again
    assert len(await store.runs.events(run_id)) == 1


async def test_a_closed_transfer_does_not_open_again(store: AnyStore) -> None:
    run_id, knit_id = new_ids()
    await store.transfers.begin_upload("t1", run_id, knit_id)
    await store.transfers.closed("t1")
    await store.transfers.closed("t1")
    with pytest.raises(NotFound):
        await store.transfers.get("t1")
    with pytest.raises(NotFound):
        await store.transfers.begin_upload("t1", run_id, knit_id)


async def test_downloads_are_many_and_repeatable(store: AnyStore) -> None:
    knit_id = await upload(store)
    first = await store.transfers.begin_download("r1", knit_id)
    assert (first.mode, first.knit_id) == ("read", knit_id)
    assert await store.transfers.begin_download("r1", knit_id) == first
    second = await store.transfers.begin_download("r2", knit_id)
    assert (second.token, second.endpoint_id) == (first.token, "r1")
    other = await store.transfers.begin_download("r3", await upload(store))
    assert other.token != first.token


async def _opened(store: AnyStore, transfer_id: str, knit_id: KnitId) -> TransferRecord:
    await store.transfers.begin_download(transfer_id, knit_id)
    await store.transfers.opened(transfer_id, "http://pod:18082")
    return await store.transfers.get(transfer_id)


async def test_the_last_reader_of_an_endpoint_keeps_it_for_the_next(store: AnyStore) -> None:
    """Leaving may be repeated; who keeps it goes once it is not read by, or others are there."""
    knit_id, linger = await upload(store), timedelta(hours=1)
    first = await _opened(store, "r1", knit_id)
    await _opened(store, "r2", knit_id)
    left = await store.transfers.leave("r1", knit_id, "r1", linger=linger)
    assert left == Left("r1")
    with pytest.raises(NotFound):
        await store.transfers.get("r1")
    for _ in range(2):
        kept = await store.transfers.leave("r2", knit_id, "r1", linger=linger)
        assert not kept.closes
        assert timedelta() < kept.stays <= linger
    third = await _opened(store, "r3", knit_id)
    assert third.token == first.token
    assert await store.transfers.leave("r2", knit_id, "r1", linger=linger) == Left("r1")
    assert await store.transfers.leave("r2", knit_id, "r1", linger=linger) == Left("r1")
    assert (await store.transfers.leave("r3", knit_id, "r1", linger=linger)).stays == linger


async def test_an_endpoint_that_is_closed_is_joined_by_nobody(store: AnyStore) -> None:
    """Whoever closes it may be killed, and does it again."""
    knit_id, at_once = await upload(store), timedelta()
    first = await _opened(store, "r1", knit_id)
    for _ in range(2):
        closing = await store.transfers.leave("r1", knit_id, "r1", linger=at_once)
        assert closing == Left("r1", closes=True)
    second = await _opened(store, "r2", knit_id)
    assert second.token != first.token
    await store.transfers.closed("r1")
    assert (await store.transfers.leave("r1", knit_id, "r1", linger=at_once)).closes
    assert (await store.transfers.leave("r2", knit_id, second.endpoint_id, linger=at_once)).closes


async def test_a_reading_keeps_the_endpoint_for_longer(store: AnyStore) -> None:
    """Of one that came and went, the row of the keeper tells."""
    knit_id, linger = await upload(store), timedelta(hours=1)
    first = await _opened(store, "r1", knit_id)
    await store.transfers.leave("r1", knit_id, "r1", linger=linger)
    before = (await store.transfers.leave("r1", knit_id, "r1", linger=linger)).stays
    await _opened(store, "r2", knit_id)
    assert await store.transfers.leave("r2", knit_id, "r1", linger=linger) == Left("r1")
    assert (await store.transfers.get("r1")).endpoint == first.endpoint
    assert timedelta() < before
    assert (await store.transfers.leave("r1", knit_id, "r1", linger=timedelta())).closes


@pytest.mark.patient
async def test_of_readers_that_leave_at_once_one_keeps_the_endpoint(store: AnyStore) -> None:
    knit_id, linger = await upload(store), timedelta(hours=1)
    readers = [f"r{number}" for number in range(8)]
    records = await asyncio.gather(*(_opened(store, one, knit_id) for one in readers))
    (endpoint_id,) = {record.endpoint_id for record in records}
    left = await asyncio.gather(
        *(store.transfers.leave(one, knit_id, endpoint_id, linger=linger) for one in readers)
    )
    assert [bool(one.stays) for one in left].count(True) == 1
    assert not any(one.closes for one in left)


async def test_an_endpoint_is_full_at_some_point(store: AnyStore) -> None:
    """An agent has room for so many connections; the next reader gets another endpoint."""
    knit_id = await upload(store)
    ids = [
        (await store.transfers.begin_download(f"r{number}", knit_id)).endpoint_id
        for number in range(MOST_READERS + 1)
    ]
    assert ids == ["r0"] * MOST_READERS + [f"r{MOST_READERS}"]


async def test_an_endpoint_that_is_only_kept_stops_nobody(store: AnyStore) -> None:
    """Its Data can be purged at once; whoever keeps it closes it when they look next."""
    knit_id, linger = await upload(store), timedelta(hours=1)
    await store.transfers.closed(f"transfer-{knit_id}")
    await _opened(store, "r1", knit_id)
    with pytest.raises(IllegalMove):
        await store.data.purge(knit_id)
    await store.transfers.leave("r1", knit_id, "r1", linger=linger)
    await store.data.purge(knit_id)
    with pytest.raises(NotFound):
        await store.transfers.get("r1")
    assert await store.transfers.leave("r1", knit_id, "r1", linger=linger) == Left(
        "r1", closes=True
    )


@pytest.mark.parametrize("knit_id", ["11111111-1111-4111-8111-111111111111", "no id", ""])
async def test_what_is_not_there_cannot_be_downloaded(store: AnyStore, knit_id: str) -> None:
    with pytest.raises(DataNotFound):
        await store.transfers.begin_download("r1", KnitId(knit_id))


async def test_a_broken_upload_leaves_a_failed_run(store: AnyStore) -> None:
    key, knit_id = await begin(store)
    assert await end(store, key, fail=True) is RunStatus.FAILED
    tags = (await store.data.get(knit_id)).tags
    assert Tag("knit#transient", "failed") in tags
    assert any(tag.key == "knit#timestamp" for tag in tags)


def new_ids() -> tuple[RunId, KnitId]:
    return RunId(str(uuid4())), KnitId(str(uuid4()))


@pytest.mark.patient
async def test_a_data_has_one_writer(store: AnyStore) -> None:
    run_id, knit_id = new_ids()
    await store.transfers.begin_upload("t1", run_id, knit_id)
    with pytest.raises(DataExists):
        await store.transfers.begin_upload("t2", RunId(str(uuid4())), knit_id)
