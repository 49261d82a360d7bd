"""`RunExecutionStore.relaunch`: what follows when the pod of a Run was disrupted."""

from __future__ import annotations

import asyncio

import pytest

from knit_workflows.domain.errors import DataNotFound, IllegalMove, RunNotFound, Superseded
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import Relaunched, RunKey
from knit_workflows.domain.runs.run import KNIT, RunStatus
from tests.contract.catalogue.conftest import AnyStore
from tests.contract.catalogue.test_lifecycle import outputs_of, pushed, waiting
from tests.store.build import drain, end, register, spec

S = RunStatus
CAUSE = "disrupted: evicted"


async def under_way(store: AnyStore, status: RunStatus = S.RUNNING) -> RunKey:
    """A Run of a → b (and a log) whose pod has been launched."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}, log="type:log"))
    await pushed(store, "type:a")
    await drain(store)
    return await launched(store, await waiting(store), status)


async def launched(store: AnyStore, key: RunKey, status: RunStatus = S.RUNNING) -> RunKey:
    for target in (S.READY, S.STARTING, status):
        await store.execution.advance(key, target, cause="test")
    return key


@pytest.mark.parametrize("status", [S.STARTING, S.RUNNING])
async def test_it_is_the_next_generation_with_new_data(store: AnyStore, status: RunStatus) -> None:
    """By knit itself, with the reason, and how often, in the history."""
    key = await under_way(store, status)
    before = await store.runs.get(key.run_id)
    again = await store.execution.relaunch(key, cause=CAUSE, limit=3)
    assert again == Relaunched(S.WAITING, 1)
    after = await store.runs.get(key.run_id)
    assert (after.generation, after.summary.exit, after.used) == (2, None, None)
    assert after.inputs == before.inputs
    assert not outputs_of(after) & outputs_of(before)
    for knit_id in outputs_of(before):
        with pytest.raises(DataNotFound):
            await store.data.get(knit_id)
    event = [*await store.runs.events(key.run_id)][-1]
    assert (event.from_status, event.to_status, event.generation) == (status, S.WAITING, 2)
    assert event.cause == f"{CAUSE}; launched again, 1 of at most 3 times"
    assert event.actor == KNIT


@pytest.mark.patient
async def test_not_too_often_but_a_retry_by_a_user_counts_anew(store: AnyStore) -> None:
    key = await under_way(store)
    for times in (1, 2):
        assert await store.execution.relaunch(key, cause=CAUSE, limit=2) == Relaunched(
            S.WAITING, times
        )
        key = await launched(store, RunKey(key.run_id, key.generation + 1))
    assert await store.execution.relaunch(key, cause=CAUSE, limit=2) == Relaunched(S.RUNNING, 2)
    await store.execution.advance(key, S.ABORTING, cause="test")
    await store.execution.finalize(key, cause="test")
    await store.runs.retry(key.run_id)
    key = await launched(store, RunKey(key.run_id, key.generation + 1))
    assert (await store.execution.relaunch(key, cause=CAUSE, limit=2)).times == 1


@pytest.mark.parametrize(("fail", "status"), [(True, S.ABORTING), (False, S.COMPLETING)])
async def test_a_stop_that_came_first_stays(store: AnyStore, fail: bool, status: RunStatus) -> None:
    key = await under_way(store)
    await store.runs.stop(key.run_id, fail=fail)
    assert await store.execution.relaunch(key, cause=CAUSE, limit=3) == Relaunched(status, 0)


async def test_a_stop_that_comes_later_ends_the_next_generation(store: AnyStore) -> None:
    key = await under_way(store)
    await store.execution.relaunch(key, cause=CAUSE, limit=3)
    with pytest.raises(IllegalMove):
        await store.runs.stop(key.run_id, fail=False)
    assert (await store.runs.stop(key.run_id, fail=True)).summary.status is S.ABORTING
    assert await store.execution.finish(RunKey(key.run_id, 2), cause="test") is S.FAILED


async def test_once_for_one_generation(store: AnyStore) -> None:
    """However many executions there are: the others are superseded."""
    key = await under_way(store)
    answers = await asyncio.gather(
        *(store.execution.relaunch(key, cause=CAUSE, limit=3) for _ in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Superseded) for one in answers) == 3
    assert (await store.runs.get(key.run_id)).generation == 2


async def test_under_an_inactive_plan_it_waits_for_that(store: AnyStore) -> None:
    key = await under_way(store)
    plan_id = (await store.runs.get(key.run_id)).summary.plan.plan_id
    await store.plans.set_active(plan_id, False)
    assert (await store.execution.relaunch(key, cause=CAUSE, limit=3)).status is S.DEACTIVATED
    await store.plans.set_active(plan_id, True)
    assert (await store.runs.get(key.run_id)).summary.status is S.WAITING


async def test_not_while_what_it_wrote_is_read(store: AnyStore) -> None:
    key = await under_way(store)
    log = (await store.runs.get(key.run_id)).log
    assert log is not None
    assert log.knit_id is not None
    await store.transfers.begin_download("reading", log.knit_id)
    with pytest.raises(IllegalMove, match="is being transferred"):
        await store.execution.relaunch(key, cause=CAUSE, limit=3)
    await store.transfers.closed("reading")
    assert (await store.execution.relaunch(key, cause=CAUSE, limit=3)).times == 1


async def test_what_has_ended_stays(store: AnyStore) -> None:
    key = await under_way(store)
    await end(store, key)
    assert await store.execution.relaunch(key, cause=CAUSE, limit=3) == Relaunched(S.DONE, 0)
    unknown = RunKey(RunId("00000000-0000-4000-8000-000000000000"), 1)
    with pytest.raises(RunNotFound):
        await store.execution.relaunch(unknown, cause=CAUSE, limit=3)
