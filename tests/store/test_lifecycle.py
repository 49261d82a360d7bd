"""Retry and deletion: what they leave, what they refuse, and nobody uses what is discarded."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import DataNotFound, IllegalMove, KnitError, RunNotFound
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs import RunQuery, RunStatus
from knit_workflows.store import PostgresStore
from tests.store.build import admit_all, begin, drain, end, fetch, only, register, spec, tags

S = RunStatus
AT_ONCE = timedelta(0)


async def pushed(store: PostgresStore, text: str) -> KnitId:
    """Uploads a Data whose transfer is closed."""
    key, knit_id = await begin(store)
    await store.data.change_tags(knit_id, TagChange(add=tags(text)))
    await end(store, key)
    await store.transfers.closed(f"transfer-{knit_id}")
    return knit_id


async def a_run(store: PostgresStore, *, fail: bool = False) -> RunKey:
    """One ended Run of a → b (and a log)."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}, log="type:log"))
    await pushed(store, "type:a")
    await drain(store)
    (key,) = await admit_all(store)
    await end(store, key, fail=fail)
    return key


async def with_downstream(store: PostgresStore) -> tuple[RunKey, RunKey]:
    """A done Run, and an ended one that uses its output."""
    first = await a_run(store)
    await register(store, spec({"/in": "type:b"}, {"/out": "type:c"}))
    await drain(store)
    (second,) = await admit_all(store)
    await end(store, second)
    return first, second


def outputs_of(url: str, run_id: str) -> set[str]:
    rows = fetch(url, "SELECT knit_id::text AS id FROM data WHERE run_id = %s", run_id)
    return {row["id"] for row in rows}


@pytest.mark.parametrize("fail", [False, True])
async def test_a_retry_makes_the_next_generation_with_new_data(
    store: PostgresStore, url: str, fail: bool
) -> None:
    """Inputs and id stay; outputs are new, with the Plan's tags; the old volumes are discarded."""
    key = await a_run(store, fail=fail)
    before = await store.runs.get(key.run_id)
    old = outputs_of(url, key.run_id)
    after = await store.runs.retry(key.run_id)
    assert after.summary.status is S.WAITING
    assert after.generation == 2
    assert after.summary.exit is None
    assert after.inputs == before.inputs
    new = outputs_of(url, key.run_id)
    assert len(new) == 2
    assert not new & old
    for knit_id in old:
        with pytest.raises(DataNotFound):
            await store.data.get(KnitId(knit_id))
    assert {
        one.knit_id for one in await store.housekeeping.discarded(older_than=AT_ONCE, limit=9)
    } == old
    output = only(after.outputs)
    data = await store.data.get(output.knit_id)
    assert tags("type:b") <= set(data.tags)
    [started] = await store.admission.admit(AdmissionLimits())
    assert started.key == RunKey(key.run_id, 2)
    assert [event.cause for event in await store.runs.events(key.run_id)][-1] == "retried"


async def test_a_retried_done_run_is_used_again(store: PostgresStore) -> None:
    """Its new output is a new Data, so downstream combinations are new and run."""
    first, second = await with_downstream(store)
    await store.runs.delete(second.run_id)
    await store.runs.retry(first.run_id)
    assert not await drain(store)
    await end(store, RunKey(first.run_id, 2))
    assert await drain(store) == 1


async def test_a_retry_under_an_inactive_plan_is_deactivated(store: PostgresStore) -> None:
    key = await a_run(store)
    plan_id = (await store.runs.get(key.run_id)).summary.plan.plan_id
    await store.plans.set_active(plan_id, False)
    assert (await store.runs.retry(key.run_id)).summary.status is S.DEACTIVATED
    await store.plans.set_active(plan_id, True)
    assert (await store.runs.get(key.run_id)).summary.status is S.WAITING


async def test_uploads_are_not_retried(store: PostgresStore, url: str) -> None:
    knit_id = await pushed(store, "type:a")
    run_id = (await store.data.get(knit_id)).upstream.run.run_id
    with pytest.raises(IllegalMove, match="knit#uploaded"):
        await store.runs.retry(run_id)


@pytest.mark.parametrize("status", [S.WAITING, S.READY, S.STARTING, S.RUNNING, S.COMPLETING])
async def test_a_run_that_has_not_finished_is_not_retried(
    store: PostgresStore, url: str, status: RunStatus
) -> None:
    await register(store, spec({"/in": "type:a"}))
    await pushed(store, "type:a")
    await drain(store)
    (key,) = await admit_all(store)
    fetch(url, "UPDATE run SET status = %s WHERE run_id = %s", status.value, key.run_id)
    with pytest.raises(IllegalMove, match="has not finished yet"):
        await store.runs.retry(key.run_id)
    if status is not S.WAITING:
        with pytest.raises(IllegalMove, match="has not finished yet"):
            await store.runs.delete(key.run_id)


async def test_what_is_in_use_is_neither_retried_nor_deleted(store: PostgresStore) -> None:
    """A live consumer keeps it; the error names that Run."""
    first, second = await with_downstream(store)
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(IllegalMove, match="in use") as refused:
            await order(first.run_id)
        assert refused.value.see == second.run_id


async def test_what_is_transferred_is_neither_retried_nor_deleted(store: PostgresStore) -> None:
    key = await a_run(store)
    output = only((await store.runs.get(key.run_id)).outputs)
    await store.transfers.begin_download("t1", output.knit_id)
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(IllegalMove, match="transferred"):
            await order(key.run_id)
    await store.transfers.closed("t1")
    await store.runs.delete(key.run_id)


async def test_a_deleted_run_leaves_a_tombstone(store: PostgresStore, url: str) -> None:
    """Its outputs are discarded, it is hidden from lists, and its combination never runs again."""
    key = await a_run(store)
    old = outputs_of(url, key.run_id)
    await store.runs.delete(key.run_id)
    deleted = await store.runs.get(key.run_id)
    assert deleted.summary.status is S.INVALIDATED
    assert deleted.summary.exit is None
    assert only(deleted.outputs).knit_id is None
    assert deleted.log is not None
    assert deleted.log.knit_id is None
    assert {
        one.knit_id for one in await store.housekeeping.discarded(older_than=AT_ONCE, limit=9)
    } == old
    runs = await store.runs.find(RunQuery())
    assert key.run_id not in {run.summary.run_id for run in runs}
    input_id = only(deleted.inputs).knit_id
    await store.data.change_tags(input_id, TagChange(remove=tags("type:a")))
    await store.data.change_tags(input_id, TagChange(add=tags("type:a")))
    assert not await drain(store)
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(RunNotFound):
            await order(key.run_id)


async def test_a_deleted_upload_vanishes_with_the_tombstones_of_its_users(
    store: PostgresStore, url: str
) -> None:
    key = await a_run(store)
    input_id = only((await store.runs.get(key.run_id)).inputs).knit_id
    upload_id = (await store.data.get(input_id)).upstream.run.run_id
    with pytest.raises(IllegalMove, match="in use"):
        await store.runs.delete(upload_id)
    await store.runs.delete(key.run_id)
    await store.runs.delete(upload_id)
    assert not fetch(url, "SELECT 1 FROM run")
    assert not fetch(url, "SELECT 1 FROM run_event")
    assert not fetch(url, "SELECT 1 FROM data")
    assert len(await store.housekeeping.discarded(older_than=AT_ONCE, limit=9)) == 3


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_waiting_run_is_deleted(store: PostgresStore, admitted: bool) -> None:
    """Also when it has a workflow already: that execution is told that it is superseded."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}))
    await pushed(store, "type:a")
    await drain(store)
    if admitted:
        await admit_all(store)
    (run,) = await store.runs.find(RunQuery(statuses=frozenset({S.WAITING})))
    run_id = run.summary.run_id
    await store.runs.delete(run_id)
    assert (await store.runs.get(run_id)).summary.status is S.INVALIDATED
    assert not await store.admission.admit(AdmissionLimits())
    if admitted:
        with pytest.raises(KnitError, match="generation 2"):
            await store.execution.spec(RunKey(run_id, 1))


@pytest.mark.parametrize("run_id", ["00000000-0000-4000-8000-000000000000", "no-id"])
async def test_an_unknown_run(store: PostgresStore, run_id: str) -> None:
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(RunNotFound):
            await order(RunId(run_id))


async def test_deletion_and_use_at_once(store: PostgresStore, url: str) -> None:
    """Either the Data is used, and its Run stays, or it is gone, and nobody uses it."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}))
    inputs = [await pushed(store, "type:a") for _ in range(12)]
    runs = [(await store.data.get(knit_id)).upstream.run.run_id for knit_id in inputs]

    async def delete(run_id: RunId) -> bool:
        try:
            await store.runs.delete(run_id)
        except IllegalMove:
            return False
        return True

    *deleted, _ = await asyncio.gather(*map(delete, runs), drain(store, page_size=3))
    await drain(store)
    used = {row["k"] for row in fetch(url, "SELECT knit_id::text AS k FROM run_input")}
    for knit_id, gone in zip(inputs, deleted, strict=True):
        assert (knit_id not in used) is gone


async def test_twice_at_once_is_once(store: PostgresStore) -> None:
    key = await a_run(store)
    answers = await asyncio.gather(
        *(store.runs.retry(key.run_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(one, BaseException) for one in answers) == 1
    assert (await store.runs.get(key.run_id)).generation == 2
