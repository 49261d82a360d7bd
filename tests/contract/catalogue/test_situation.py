"""How an installation is, as the store knows it."""

from __future__ import annotations

from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import Exit, RunQuery
from knit_workflows.domain.runs.run import RunStatus as S
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import drain, end, register, spec, upload


async def two_runs(store: AnyStore) -> tuple[RunKey, RunKey]:
    """Two waiting Runs of two Plans, the older one first."""
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    await register(store, spec({"/in": "k:a"}, {"/out": "k:c"}))
    await upload(store, "k:a")
    await drain(store)
    found = await store.runs.find(RunQuery(statuses=frozenset({S.WAITING})))
    first, second = sorted(found, key=lambda one: (one.summary.updated_at, one.summary.run_id))
    return RunKey(first.summary.run_id, 1), RunKey(second.summary.run_id, 1)


async def test_runs_are_counted_by_status_with_the_oldest_of_each(store: AnyStore) -> None:
    before = await store.situation.look()
    first, second = await two_runs(store)
    found = await store.situation.look()
    [waiting] = [one for one in found.counts if one.status is S.WAITING]
    assert (waiting.runs, waiting.run_id) == (2, first.run_id)
    assert waiting.since <= found.at
    assert (before.failed, found.failed) == (0, 0)
    await store.execution.advance(first, S.READY, cause="test")
    moved = await store.situation.look()
    by_status = {one.status: (one.runs, one.run_id) for one in moved.counts}
    assert by_status[S.WAITING] == (1, second.run_id)
    assert by_status[S.READY] == (1, first.run_id)
    assert list(by_status) == sorted(by_status, key=list(S).index)


async def test_runs_that_failed_lately_are_named(store: AnyStore) -> None:
    done, failed = await two_runs(store)
    before = await store.situation.look()
    await end(store, done)
    await store.execution.advance(failed, S.ABORTING, cause="test", exit=Exit(7, "no such column"))
    await store.execution.finalize(failed, cause="test")
    found = await store.situation.look()
    assert (found.done, found.failed) == (before.done + 1, 1)
    [failure] = found.failures
    assert (failure.run_id, failure.exit) == (failed.run_id, Exit(7, "no such column"))
    assert ":" in failure.plan
    assert not [one for one in found.counts if one.run_id in (done.run_id, failed.run_id)]


async def test_a_plan_of_an_image_by_digest_is_named_by_it(store: AnyStore) -> None:
    image = f"registry.test/tool@sha256:{64 * 'a'}"
    await register(store, spec({"/in": "k:digest"}, image=image))
    await upload(store, "k:digest")
    await drain(store)
    [run] = await store.runs.find(RunQuery(statuses=frozenset({S.WAITING})))
    key = RunKey(run.summary.run_id, 1)
    await store.execution.advance(key, S.READY, cause="test")
    await store.execution.advance(key, S.ABORTING, cause="test", exit=Exit(7, ""))
    await store.execution.finalize(key, cause="test")
    [failure] = (await store.situation.look()).failures
    assert failure.plan == image


async def test_a_choice_of_plans_leaves_out_the_runs_of_all_others(store: AnyStore) -> None:
    key, other = await two_runs(store)
    plan_id = (await store.runs.get(key.run_id)).summary.plan.plan_id
    assert plan_id != (await store.runs.get(other.run_id)).summary.plan.plan_id
    found = await store.situation.look(plan_ids=frozenset({plan_id}))
    assert [(one.runs, one.run_id) for one in found.counts] == [(1, key.run_id)]
    none = await store.situation.look(plan_ids=frozenset())
    assert (list(none.counts), none.done, none.failed) == ([], 0, 0)
