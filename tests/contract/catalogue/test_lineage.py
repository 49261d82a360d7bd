"""`LineageStore`: both directions, how far, and the limit; a model proves the walk elsewhere."""

from __future__ import annotations

import pytest

from knit_workflows.domain.errors import DataNotFound, TooLarge
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.lineage import Edge, LineageGraph
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import drain, end, only, register, spec, upload

NOWHERE = KnitId("11111111-1111-4111-8111-111111111111")
LIMIT = 10_000


async def a_chain(store: AnyStore, length: int) -> list[KnitId]:
    """Data that were made of each other; each Run has a side input, and makes a log."""
    data = [await upload(store, "step:0")]
    await upload(store, "side:x")
    for step in range(length):
        wanted = {"/in": f"step:{step}", "/side": "side:x"}
        await register(store, spec(wanted, {"/out": f"step:{step + 1}"}, log="k:log"))
        await drain(store)
        (run,) = await store.runs.find(RunQuery(statuses=frozenset({RunStatus.WAITING})))
        await end(store, RunKey(run.summary.run_id, 1))
        data.append(only(run.outputs).knit_id)
    return data


@pytest.mark.parametrize(
    ("up", "down", "reached"),
    [
        (0, 0, range(2, 3)), (1, 0, range(1, 3)), (0, 1, range(2, 4)), (1, 1, range(1, 4)),
        (None, 0, range(3)), (0, None, range(2, 5)), (None, None, range(5)), (99, 99, range(5)),
    ],
)  # fmt: skip
@pytest.mark.patient
async def test_so_many_runs_far_in_each_direction(
    store: AnyStore, up: int | None, down: int | None, reached: range
) -> None:
    data = await a_chain(store, 4)
    far = {"upstream": up, "downstream": down, "limit": LIMIT}
    graph = await store.lineage.graph(data[2], **far)
    assert graph.data[0] == data[2]
    assert set(data) & set(graph.data) == {data[step] for step in reached}
    assert len(graph.data) == len(set(graph.data))
    await check_edges(store, graph)
    whole = await store.lineage.get(data[2], **far)
    assert tuple(one.knit_id for one in whole.data) == graph.data
    assert tuple(one.summary.run_id for one in whole.runs) == graph.runs


async def check_edges(store: AnyStore, graph: LineageGraph) -> None:
    """They are what the Runs themselves say, Run by Run: inputs, outputs, log."""
    expected = []
    for run_id in graph.runs:
        run = await store.runs.get(run_id)
        expected += [Edge(run_id, one.knit_id, one.path, True) for one in run.inputs]
        expected += [Edge(run_id, one.knit_id, one.path, False) for one in run.outputs]
        expected += [Edge(run_id, run.log.knit_id, None, False)] if run.log else []
    assert list(graph.edges) == expected


async def test_the_nearest_come_first(store: AnyStore) -> None:
    data = await a_chain(store, 4)
    graph = await store.lineage.graph(data[0], upstream=None, downstream=None, limit=LIMIT)
    steps = [one for one in graph.data if one in data]
    assert steps == data


async def test_what_is_at_the_side_is_shown_but_not_followed(store: AnyStore) -> None:
    data = await a_chain(store, 2)
    found = await store.lineage.get(data[0], upstream=0, downstream=1, limit=LIMIT)
    (run,) = found.runs
    side = next(one.knit_id for one in run.inputs if one.path == "/side")
    assert side in {one.knit_id for one in found.data}
    sides_run = next(one for one in found.data if one.knit_id == side).upstream.run
    assert sides_run.run_id not in {one.summary.run_id for one in found.runs}


async def test_a_lineage_beyond_the_limit_is_refused_with_advice(store: AnyStore) -> None:
    """The limit holds for Data and for Runs; exactly so many are fine."""
    data = await a_chain(store, 3)  # each of its Runs has two more Data
    for read in (store.lineage.get, store.lineage.graph):
        assert len((await read(data[0], upstream=0, downstream=None, limit=8)).data) == 8
        for limit in (2, 7):
            with pytest.raises(TooLarge) as refused:
                await read(data[0], upstream=0, downstream=None, limit=limit)
            assert "limit" in refused.value.advice


async def test_details_in_a_lineage_are_those_of_the_things_themselves(
    store: AnyStore,
) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}, log="k:log"))
    start = await upload(store, "k:a")
    await drain(store)
    found = await store.lineage.get(start, upstream=None, downstream=None, limit=LIMIT)
    assert len(found.data) == 3
    assert len(found.runs) == 2
    assert list(found.data) == [await store.data.get(one.knit_id) for one in found.data]
    assert list(found.runs) == [await store.runs.get(one.summary.run_id) for one in found.runs]


async def test_deleted_runs_are_not_followed_downstream(store: AnyStore) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    start = await upload(store, "k:a")
    await drain(store)
    used = only((await store.data.get(start)).downstreams).run
    await store.runs.delete(used.run_id)
    graph = await store.lineage.graph(start, upstream=0, downstream=None, limit=LIMIT)
    assert graph == LineageGraph((start,), (), ())


@pytest.mark.parametrize("knit_id", [NOWHERE, KnitId("x"), KnitId("")])
async def test_the_lineage_of_what_is_not_there(store: AnyStore, knit_id: KnitId) -> None:
    for read in (store.lineage.get, store.lineage.graph):
        with pytest.raises(DataNotFound):
            await read(knit_id, upstream=None, downstream=None, limit=LIMIT)
