"""`TransferStore`: the Run of an upload, and one row per open transfer."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from knit_workflows.domain.errors import DataExists, DataNotFound, NotFound
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs import RunStatus
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
    assert second.token != first.token


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


async def test_a_data_has_one_writer(store: AnyStore) -> None:
    run_id, knit_id = new_ids()
    await store.transfers.begin_upload("t1", run_id, knit_id)
    with pytest.raises(DataExists):
        await store.transfers.begin_upload("t2", RunId(str(uuid4())), knit_id)
