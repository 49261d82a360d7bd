"""`RunStore`: filters, pages, details, histories, stops."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.errors import IllegalMove, InvalidRequest, RunNotFound
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import (
    ABORTED_BY_USER,
    STOPPED_BY_USER,
    Exit,
    RunQuery,
    RunStatus,
)
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import begin, drain, end, register, spec, upload

NOWHERE = "11111111-1111-4111-8111-111111111111"
S = RunStatus
WAITING = RunQuery(statuses=frozenset({S.WAITING}))


async def a_run(store: AnyStore) -> RunKey:
    """A waiting Run of a Plan with an output and a log."""
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}, log="k:log"))
    await upload(store, "k:a")
    await drain(store)
    (run,) = await store.runs.find(WAITING)
    return RunKey(run.summary.run_id, 1)


async def test_a_run_shows_what_it_has_and_makes(store: AnyStore) -> None:
    key = await a_run(store)
    run = await store.runs.get(key.run_id)
    assert (run.generation, run.summary.exit, run.used, run.notes) == (1, None, None, ())
    assert run.waiting is not None
    assert run.waiting.position == 1
    assert [(one.path, [*map(str, one.tags)]) for one in run.inputs] == [("/in", ["k:a"])]
    assert [(one.path, [*map(str, one.tags)]) for one in run.outputs] == [("/out", ["k:b"])]
    assert run.log is not None
    for one in (run.outputs[0], run.log):
        assert one.knit_id is not None
        data = await store.data.get(one.knit_id)
        assert set(one.tags) < set(data.tags)
        assert data.upstream.run == run.summary
    assert data.upstream.path is None


async def test_the_history_has_every_move(store: AnyStore) -> None:
    key = await a_run(store)
    await end(store, key)
    events = await store.runs.events(key.run_id)
    steps = [None, S.WAITING, S.READY, S.COMPLETING, S.DONE]
    assert [(one.from_status, one.to_status) for one in events] == [*itertools.pairwise(steps)]
    assert [one.at for one in events] == sorted(one.at for one in events)
    assert events[2].exit == Exit(0, "")
    run = await store.runs.get(key.run_id)
    assert run.summary.exit == Exit(0, "")
    assert run.summary.updated_at == events[-1].at


WAYS = {
    S.WAITING: (), S.READY: (S.READY,), S.STARTING: (S.READY, S.STARTING),
    S.RUNNING: (S.READY, S.RUNNING), S.ABORTING: (S.ABORTING,),
    S.COMPLETING: (S.READY, S.COMPLETING), S.DONE: (S.READY, S.COMPLETING),
    S.FAILED: (S.ABORTING,),
}  # fmt: skip
BEGUN = {S.READY, S.STARTING, S.RUNNING}
MAY_STOP = {True: BEGUN | {S.WAITING, S.ABORTING}, False: BEGUN | {S.COMPLETING}}


@pytest.mark.parametrize("fail", [True, False])
@pytest.mark.parametrize("status", WAYS)
async def test_the_stop_matrix(store: AnyStore, status: RunStatus, fail: bool) -> None:
    """Twice is as once; what has ended, or ends otherwise, stays as it is."""
    key = await a_run(store)
    for step in WAYS[status]:
        await store.execution.advance(key, step, cause="test")
    if status in (S.DONE, S.FAILED):
        await store.execution.finalize(key, cause="test")
    if status in MAY_STOP[fail]:
        for _ in range(2):
            stopped = (await store.runs.stop(key.run_id, fail=fail)).summary
            assert stopped.status is (S.ABORTING if fail else S.COMPLETING)
        if status not in (S.ABORTING, S.COMPLETING):
            assert stopped.exit == (ABORTED_BY_USER if fail else STOPPED_BY_USER)
        return
    with pytest.raises(IllegalMove) as refused:
        await store.runs.stop(key.run_id, fail=fail)
    assert refused.value.see == key.run_id
    assert refused.value.advice
    assert (await store.runs.get(key.run_id)).summary.status is status


async def test_a_running_run_can_be_stopped_as_failed(store: AnyStore) -> None:
    key, _ = await begin(store)
    stopped = (await store.runs.stop(key.run_id, fail=True)).summary
    assert (stopped.status, stopped.exit) == (S.ABORTING, ABORTED_BY_USER)
    assert (await store.runs.events(key.run_id))[-1].exit == ABORTED_BY_USER


async def test_a_run_that_changes_between_two_pages_hides_no_others(store: AnyStore) -> None:
    keys = [(await begin(store))[0] for _ in range(4)]
    first = await store.runs.find(RunQuery(), limit=2)
    last = first[-1].summary
    cursor = str(Cursor(last.run_id, last.updated_at))
    others = [run.summary.run_id for run in (await store.runs.find(RunQuery()))[2:]]
    await store.execution.advance(RunKey(last.run_id, 1), S.COMPLETING, cause="test")
    seen = [run.summary.run_id for run in await store.runs.find(RunQuery(), after=cursor)]
    assert seen == [*others, last.run_id]
    assert len(keys) == 4


@pytest.mark.patient
async def test_ids_alone_are_those_of_the_list(store: AnyStore) -> None:
    """And each can be looked up by them, unless it was deleted."""
    key = await a_run(store)
    others = [(await begin(store))[0] for _ in range(3)]
    every = [key.run_id, *(one.run_id for one in others)]
    running = RunQuery(statuses=frozenset({S.RUNNING}))
    [plan_id] = {(await store.runs.get(key.run_id)).summary.plan.plan_id}
    for query in (RunQuery(), running, RunQuery(plan_ids=frozenset({plan_id}))):
        there = [one.summary.run_id for one in await store.runs.find(query)]
        assert [*await store.runs.find_ids(query)] == there
        assert [*await store.runs.find_ids(query, after=there[0])] == there[1:]
    with pytest.raises(InvalidRequest):
        await store.runs.find_ids(RunQuery(), after="00000000-0000-4000-8000-00000000ffff")
    await store.runs.delete(key.run_id)
    found = await store.runs.get_each([*reversed(every), NOWHERE])
    assert [one.summary.run_id for one in found] == [one.run_id for one in reversed(others)]


async def test_runs_are_found(store: AnyStore) -> None:
    plan = await register(store, spec({"/a": "k:a"}, {"/o": "k:o"}, log="k:log"))
    data = [await upload(store, "k:a") for _ in range(3)]
    await drain(store)
    keys = [RunKey(one.summary.run_id, 1) for one in await store.runs.find(WAITING)]
    await end(store, keys[0])
    await store.runs.delete(keys[1].run_id)

    async def find(**query: object) -> list[str]:
        runs = await store.runs.find(RunQuery(**query))  # type: ignore[arg-type]
        return [run.summary.run_id for run in runs]

    everything = await store.runs.find(RunQuery())
    assert [run.summary for run in everything] == sorted(
        (run.summary for run in everything), key=lambda one: (one.updated_at, one.run_id)
    )
    assert len(everything) == 5
    assert await find(statuses=frozenset({S.INVALIDATED})) == [keys[1].run_id]
    assert set(await find(plan_ids=frozenset({plan, "x"}))) == {keys[0].run_id, keys[2].run_id}
    assert await find(plan_ids=frozenset({"x"})) == []
    detail = await store.runs.get(keys[0].run_id)
    assert detail.log is not None
    outputs = [detail.outputs[0].knit_id, detail.log.knit_id]
    for knit_id in outputs:
        assert await find(output_knit_ids=frozenset({knit_id})) == [keys[0].run_id]
    inputs = frozenset({one.knit_id for one in detail.inputs})
    assert await find(input_knit_ids=inputs) == [keys[0].run_id]
    assert await find(input_knit_ids=inputs, statuses=frozenset({S.FAILED})) == []
    assert len(await find(output_knit_ids=frozenset(data))) == 3
    at = detail.summary.updated_at
    assert keys[0].run_id in await find(since=at)
    assert keys[0].run_id not in await find(until=at)
    seen: list[str] = []
    while page := await store.runs.find(RunQuery(), limit=2, after=seen[-1] if seen else None):
        seen += [run.summary.run_id for run in page]
    assert seen == [run.summary.run_id for run in everything]
    with pytest.raises(InvalidRequest):
        await store.runs.find(RunQuery(), after="x")


@pytest.mark.parametrize("run_id", [NOWHERE, "x"])
async def test_a_run_that_is_not_there(store: AnyStore, run_id: str) -> None:
    for call in (
        store.runs.get(RunId(run_id)),
        store.runs.events(RunId(run_id)),
        store.runs.stop(RunId(run_id), fail=True),
    ):
        with pytest.raises(RunNotFound):
            await call


async def test_runs_are_counted_until_they_have_ended(store: AnyStore) -> None:
    none = await store.runs.census(plans=3)
    assert (none.runs.get(S.WAITING, 0), none.oldest_waiting) == (0, timedelta())
    key = await a_run(store)
    one = await store.runs.census(plans=3)
    assert one.runs[S.WAITING] == 1
    assert one.oldest_waiting > timedelta()
    await store.execution.advance(key, S.READY, cause="test")
    ready = await store.runs.census(plans=3)
    assert (ready.runs[S.READY], ready.oldest_waiting) == (1, timedelta())
    await end(store, key)
    ended = await store.runs.census(plans=3)
    assert not {S.WAITING, S.READY, S.DONE} & {one for one, count in ended.runs.items() if count}
    assert [*ended.plans] == []


async def test_the_plans_with_the_most_runs_are_counted_apart(store: AnyStore) -> None:
    """They are as many as asked for; `runs` has those of the others, too."""
    digest = "sha256:" + "a" * 64
    images = {"k:a": "busy:1", "k:b": f"pinned@{digest}", "k:c": "quiet:1", "k:d": "idle:1"}
    plan_ids = {tag: await register(store, spec({"/in": tag}, image=images[tag])) for tag in images}
    for tag in ("k:a", "k:a", "k:a", "k:b", "k:b", "k:c"):
        await upload(store, tag)
    await drain(store)
    first = (await store.runs.find(RunQuery(plan_ids=frozenset({plan_ids["k:a"]}))))[0]
    await store.execution.advance(RunKey(first.summary.run_id, 1), S.READY, cause="test")
    await store.plans.set_active(plan_ids["k:b"], False)
    census = await store.runs.census(plans=2)
    assert [(one.plan_id, one.plan, dict(one.runs)) for one in census.plans] == [
        (plan_ids["k:a"], "busy:1", {S.READY: 1, S.WAITING: 2}),
        (plan_ids["k:b"], f"pinned@{digest}", {S.DEACTIVATED: 2}),
    ]
    assert dict(census.runs) == {S.READY: 1, S.WAITING: 3, S.DEACTIVATED: 2}
    assert [one.plan for one in (await store.runs.census(plans=9)).plans][2:] == ["quiet:1"]


async def test_plans_with_equally_many_runs_are_in_order_of_their_ids(store: AnyStore) -> None:
    """So that it is not by chance, and another each time, who is left out."""
    plan_ids = [await register(store, spec({"/in": "k:a"}, image=f"i:{n}")) for n in range(4)]
    await upload(store, "k:a")
    await drain(store)
    census = await store.runs.census(plans=3)
    assert [one.plan_id for one in census.plans] == sorted(plan_ids)[:3]


async def test_an_upload_is_counted_by_the_name_of_its_plan(store: AnyStore) -> None:
    await begin(store)
    census = await store.runs.census(plans=3)
    assert [(one.plan, dict(one.runs)) for one in census.plans] == [(UPLOADED, dict(census.runs))]
    assert sum(census.runs.values()) == 1
