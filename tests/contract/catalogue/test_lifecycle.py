"""`RunStore`: retry and deletion, what they leave and what they refuse."""

from __future__ import annotations

import asyncio

import pytest

from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import DataNotFound, IllegalMove, RunNotFound
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunDetail, RunQuery, RunStatus
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import begin, drain, end, only, register, spec, tags

S = RunStatus
WAITING = RunQuery(statuses=frozenset({S.WAITING}))


def outputs_of(run: RunDetail) -> set[KnitId]:
    """The Data of a Run that has a log."""
    assert run.log is not None
    return {one.knit_id for one in (*run.outputs, run.log) if one.knit_id is not None}


async def waiting(store: AnyStore) -> RunKey:
    (run,) = await store.runs.find(WAITING)
    return RunKey(run.summary.run_id, run.generation)


@pytest.mark.parametrize("fail", [False, True])
async def test_a_retry_makes_the_next_generation_with_new_data(store: AnyStore, fail: bool) -> None:
    """Inputs and id stay; outputs are new, with the Plan's tags."""
    key = await a_run(store, fail=fail)
    before = await store.runs.get(key.run_id)
    old = outputs_of(before)
    after = await store.runs.retry(key.run_id)
    assert after.summary.status is S.WAITING
    assert after.generation == 2
    assert after.summary.exit is None
    assert after.inputs == before.inputs
    new = outputs_of(after)
    assert len(new) == 2
    assert not new & old
    for knit_id in old:
        with pytest.raises(DataNotFound):
            await store.data.get(KnitId(knit_id))
    output = only(after.outputs)
    data = await store.data.get(output.knit_id)
    assert tags("type:b") <= set(data.tags)
    assert [event.cause for event in await store.runs.events(key.run_id)][-1] == "retried"


async def test_a_retried_done_run_is_used_again(store: AnyStore) -> None:
    """Its new output is a new Data, so downstream combinations are new and run."""
    first, second = await with_downstream(store)
    await store.runs.delete(second.run_id)
    await store.runs.retry(first.run_id)
    await drain(store)
    assert await waiting(store) == RunKey(first.run_id, 2)
    await end(store, RunKey(first.run_id, 2))
    await drain(store)
    assert (await waiting(store)).run_id not in (first.run_id, second.run_id)


async def test_a_retry_under_an_inactive_plan_is_deactivated(store: AnyStore) -> None:
    key = await a_run(store)
    plan_id = (await store.runs.get(key.run_id)).summary.plan.plan_id
    await store.plans.set_active(plan_id, False)
    assert (await store.runs.retry(key.run_id)).summary.status is S.DEACTIVATED
    await store.plans.set_active(plan_id, True)
    assert (await store.runs.get(key.run_id)).summary.status is S.WAITING


async def test_uploads_are_not_retried(store: AnyStore) -> None:
    knit_id = await pushed(store, "type:a")
    run_id = (await store.data.get(knit_id)).upstream.run.run_id
    with pytest.raises(IllegalMove, match="knit#uploaded"):
        await store.runs.retry(run_id)


async def test_what_is_in_use_is_neither_retried_nor_deleted(store: AnyStore) -> None:
    """A live consumer keeps it; the error names that Run."""
    first, second = await with_downstream(store)
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(IllegalMove, match="in use") as refused:
            await order(first.run_id)
        assert refused.value.see == second.run_id


async def test_what_is_transferred_is_neither_retried_nor_deleted(store: AnyStore) -> None:
    key = await a_run(store)
    output = only((await store.runs.get(key.run_id)).outputs)
    await store.transfers.begin_download("t1", output.knit_id)
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(IllegalMove, match="transferred"):
            await order(key.run_id)
    await store.transfers.closed("t1")
    await store.runs.delete(key.run_id)


@pytest.mark.parametrize("run_id", ["00000000-0000-4000-8000-000000000000", "no-id"])
async def test_an_unknown_run(store: AnyStore, run_id: str) -> None:
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(RunNotFound):
            await order(RunId(run_id))


async def test_twice_at_once_is_once(store: AnyStore) -> None:
    key = await a_run(store)
    answers = await asyncio.gather(
        *(store.runs.retry(key.run_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(one, BaseException) for one in answers) == 1
    assert (await store.runs.get(key.run_id)).generation == 2


async def pushed(store: AnyStore, text: str) -> KnitId:
    """Uploads a Data whose transfer is closed."""
    key, knit_id = await begin(store)
    await store.data.change_tags(knit_id, TagChange(add=tags(text)))
    await end(store, key)
    await store.transfers.closed(f"transfer-{knit_id}")
    return knit_id


async def a_run(store: AnyStore, *, fail: bool = False) -> RunKey:
    """One ended Run of a → b (and a log)."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}, log="type:log"))
    await pushed(store, "type:a")
    await drain(store)
    key = await waiting(store)
    await end(store, key, fail=fail)
    return key


async def with_downstream(store: AnyStore) -> tuple[RunKey, RunKey]:
    """A done Run, and an ended one that uses its output."""
    first = await a_run(store)
    await register(store, spec({"/in": "type:b"}, {"/out": "type:c"}))
    await drain(store)
    second = await waiting(store)
    await end(store, second)
    return first, second


async def test_a_deleted_run_leaves_a_tombstone(store: AnyStore) -> None:
    """Its outputs are discarded, it is hidden from lists, and its combination never runs again."""
    key = await a_run(store)
    old = outputs_of(await store.runs.get(key.run_id))
    await store.runs.delete(key.run_id)
    deleted = await store.runs.get(key.run_id)
    assert deleted.summary.status is S.INVALIDATED
    assert deleted.summary.exit is None
    assert only(deleted.outputs).knit_id is None
    assert deleted.log is not None
    assert deleted.log.knit_id is None
    for knit_id in old:
        with pytest.raises(DataNotFound):
            await store.data.get(knit_id)
    assert (await store.runs.events(key.run_id))[-1].cause == "deleted"
    runs = await store.runs.find(RunQuery())
    assert key.run_id not in {run.summary.run_id for run in runs}
    input_id = only(deleted.inputs).knit_id
    await store.data.change_tags(input_id, TagChange(remove=tags("type:a")))
    await store.data.change_tags(input_id, TagChange(add=tags("type:a")))
    await drain(store)
    assert await store.runs.find(WAITING) == []
    assert (await store.data.get(input_id)).downstreams == ()
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(RunNotFound):
            await order(key.run_id)


async def test_a_deleted_upload_vanishes_with_the_tombstones_of_its_users(
    store: AnyStore,
) -> None:
    key = await a_run(store)
    input_id = only((await store.runs.get(key.run_id)).inputs).knit_id
    upload_id = (await store.data.get(input_id)).upstream.run.run_id
    with pytest.raises(IllegalMove, match="in use"):
        await store.runs.delete(upload_id)
    await store.runs.delete(key.run_id)
    await store.runs.delete(upload_id)
    for run_id in (key.run_id, upload_id):
        with pytest.raises(RunNotFound):
            await store.runs.get(run_id)
    with pytest.raises(DataNotFound):
        await store.data.get(input_id)


@pytest.mark.parametrize("status", [S.READY, S.STARTING, S.RUNNING, S.COMPLETING])
async def test_a_run_that_has_not_finished_is_left_alone(
    store: AnyStore, status: RunStatus
) -> None:
    await register(store, spec({"/in": "type:a"}))
    await pushed(store, "type:a")
    await drain(store)
    key = await waiting(store)
    await store.execution.advance(key, S.READY, cause="test")
    await store.execution.advance(key, status, cause="test")
    for order in (store.runs.retry, store.runs.delete):
        with pytest.raises(IllegalMove, match="has not finished yet"):
            await order(key.run_id)


@pytest.mark.parametrize("active", [True, False])
async def test_a_run_that_has_not_begun_is_deleted_but_not_retried(
    store: AnyStore, active: bool
) -> None:
    plan_id = await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}))
    await pushed(store, "type:a")
    await drain(store)
    run_id = (await waiting(store)).run_id
    await store.plans.set_active(plan_id, active)
    with pytest.raises(IllegalMove, match="has not finished yet"):
        await store.runs.retry(run_id)
    await store.runs.delete(run_id)
    assert (await store.runs.get(run_id)).summary.status is S.INVALIDATED
