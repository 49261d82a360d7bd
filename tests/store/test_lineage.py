"""What came from what: the walk against a plain model, and what must not lead it astray."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
import pytest

from knit_workflows.domain.errors import TooLarge
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.lineage import Edge, Lineage, LineageGraph
from knit_workflows.store import PostgresStore
from tests.store.build import fetch, only, register, spec

NOWHERE = KnitId("11111111-1111-4111-8111-111111111111")
LIMIT = 10_000


@dataclass
class ModelRun:
    """A Run; inputs and outputs as (path, Data), None is the log's path."""

    inputs: list[tuple[str, str]]
    outputs: list[tuple[str | None, str]]
    deleted: bool = False


@dataclass
class Model:
    """A graph, and the plainest way to walk through it."""

    runs: dict[str, ModelRun] = field(default_factory=dict)

    @property
    def data(self) -> list[str]:
        return sorted({one for run in self.runs.values() for _, one in run.outputs})

    def distances(self, start: str, up: int | None, down: int | None) -> dict[str, int]:
        """Every Run in the lineage, and how many hops it is away, by the shorter direction."""
        found: dict[str, int] = {}
        for forward, hops in ((False, up), (True, down)):
            frontier, hop, seen = {start}, 0, set[str]()
            while frontier and (hops is None or hop < hops):
                hop += 1
                runs = {one for one in self.runs if self._leads(one, frontier, forward)} - seen
                seen |= runs
                found |= {one: min(hop, found.get(one, hop)) for one in runs}
                frontier = {data for one in runs for data in self._ahead(one, forward)}
        return found

    def _leads(self, run_id: str, frontier: set[str], forward: bool) -> bool:
        run = self.runs[run_id]
        ends = run.inputs if forward else run.outputs
        return not (forward and run.deleted) and any(data in frontier for _, data in ends)

    def _ahead(self, run_id: str, forward: bool) -> Iterable[str]:
        run = self.runs[run_id]
        return (data for _, data in (run.outputs if forward else run.inputs))

    def edges(self, run_ids: Iterable[str]) -> list[Edge]:
        """What the Runs have, Run by Run: inputs, outputs, log."""
        return [
            Edge(run_id, knit_id, path, into)
            for run_id in run_ids
            for into, ends in ((True, self.runs[run_id].inputs), (False, self.runs[run_id].outputs))
            for path, knit_id in ends
        ]


async def a_plan(store: PostgresStore) -> PlanId:
    inputs = {"/a": "k:a", "/b": "k:b", "/c": "k:c"}
    return await register(store, spec(inputs, {"/x": "k:x", "/y": "k:y"}, log="k:log"))


def random_graph(dice: random.Random, size: int, *, cyclic: bool) -> Model:
    """Some Runs whose inputs are outputs of earlier ones; if `cyclic` of any."""
    model = Model()

    def new() -> str:
        return str(UUID(int=dice.getrandbits(128), version=4))

    for _ in range(size):
        paths: list[str | None] = ["/x", "/y", None]
        outputs = [(path, new()) for path in paths if dice.random() < 0.7]
        model.runs[new()] = ModelRun([], outputs, deleted=dice.random() < 0.1)
    before: list[str] = []
    for run in model.runs.values():
        pool = model.data if cyclic else before
        for path in dice.sample(["/a", "/b", "/c"], dice.choice([0, 1, 1, 2, 3])):
            if pool:
                run.inputs.append((path, dice.choice(pool[-12:] if not cyclic else pool)))
        run.inputs.sort()
        before += [data for _, data in run.outputs]
    return model


def put(url: str, plan_id: PlanId, model: Model) -> None:
    """Writes a graph into the database as it is, cycles and all."""
    inputs = {
        one["path"]: one["input_id"]
        for one in fetch(url, "SELECT path, input_id FROM plan_input WHERE plan_id = %s", plan_id)
    }
    outputs = {
        None if one["is_log"] else one["path"]: one["output_id"]
        for one in fetch(url, "SELECT * FROM plan_output WHERE plan_id = %s", plan_id)
    }
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO run (run_id, plan_id, status, created_at, updated_at)"
            " VALUES (%s, %s, %s, now(), now())",
            [
                (run_id, plan_id, "invalidated" if run.deleted else "done")
                for run_id, run in model.runs.items()
            ],
        )
        cursor.executemany(
            "INSERT INTO data (run_id, knit_id, output_id, volume) VALUES (%s, %s, %s, '')",
            [
                (run_id, knit_id, outputs[path])
                for run_id, run in model.runs.items()
                for path, knit_id in run.outputs
            ],
        )
        cursor.executemany(
            "INSERT INTO run_input (run_id, knit_id, input_id) VALUES (%s, %s, %s)",
            [
                (run_id, knit_id, inputs[path])
                for run_id, run in model.runs.items()
                for path, knit_id in run.inputs
            ],
        )


def data_of(lineage: Lineage) -> list[str]:
    return [one.knit_id for one in lineage.data]


def runs_of(lineage: Lineage) -> list[str]:
    return [one.summary.run_id for one in lineage.runs]


def check(model: Model, start: str, up: int | None, down: int | None, graph: LineageGraph) -> None:
    distances = model.distances(start, up, down)
    assert len(graph.runs) == len(distances)
    assert set(graph.runs) == set(distances)
    hops = [distances[one] for one in graph.runs]
    assert hops == sorted(hops), "not the nearest first"
    assert list(graph.edges) == model.edges(graph.runs)
    assert list(graph.data) == list(dict.fromkeys([start, *(edge.knit_id for edge in graph.edges)]))


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.patient
async def test_any_lineage_of_any_graph_is_what_the_model_says(
    store: PostgresStore, url: str, cyclic: bool
) -> None:
    """Runs, their order, Data and edges, in full and as ids; with cycles too, which cannot loop."""
    plan_id = await a_plan(store)
    for seed in range(8):
        dice = random.Random(seed)
        model = random_graph(dice, dice.choice([1, 6, 25, 60]), cyclic=cyclic)
        put(url, plan_id, model)
        for start in dice.sample(model.data, min(5, len(model.data))):
            for _ in range(3):
                up, down = (dice.choice([0, 1, 2, 3, 7, None]) for _ in range(2))
                far = {"upstream": up, "downstream": down, "limit": LIMIT}
                graph = await store.lineage.graph(KnitId(start), **far)
                check(model, start, up, down, graph)
                full = await store.lineage.get(KnitId(start), **far)
                assert (tuple(data_of(full)), tuple(runs_of(full))) == (graph.data, graph.runs)


async def test_what_is_at_the_side_is_shown_but_not_followed(
    store: PostgresStore, url: str
) -> None:
    """A Run comes with its other inputs; who made those is another question."""
    model = Model(
        {
            "a" * 8 + "-0000-4000-8000-000000000001": ModelRun([], [("/x", _id(1))]),
            "a" * 8 + "-0000-4000-8000-000000000002": ModelRun([], [("/x", _id(2))]),
            "a" * 8 + "-0000-4000-8000-000000000003": ModelRun(
                [("/a", _id(1)), ("/b", _id(2))], [("/x", _id(3)), (None, _id(4))]
            ),
        }
    )
    put(url, await a_plan(store), model)
    found = await store.lineage.get(KnitId(_id(1)), upstream=0, downstream=None, limit=LIMIT)
    assert data_of(found) == [_id(1), _id(2), _id(3), _id(4)]
    assert runs_of(found) == ["aaaaaaaa-0000-4000-8000-000000000003"]


def _id(number: int) -> str:
    return f"dddddddd-0000-4000-8000-{number:012}"


def ladder(length: int) -> Model:
    """Layers of two Data, both made from both of the layer before: 2**length ways through it."""
    model = Model()
    layer: list[str] = []
    for turn in range(length):
        made = [_id(2 * turn), _id(2 * turn + 1)]
        inputs = list(zip(["/a", "/b"], layer, strict=False))
        for one in made:
            model.runs["b" + one[1:]] = ModelRun(list(inputs), [("/x", one)])
        layer = made
    return model


@pytest.mark.parametrize("hops", [None, 10**12, 199])
@pytest.mark.patient
async def test_each_thing_is_met_once_whatever_the_number_of_ways(
    store: PostgresStore, url: str, hops: int | None
) -> None:
    """Two hundred layers have 2**199 ways through them."""
    model = ladder(200)
    put(url, await a_plan(store), model)
    found = await store.lineage.graph(KnitId(_id(0)), upstream=hops, downstream=hops, limit=LIMIT)
    check(model, _id(0), hops, hops, found)
    assert len(found.runs) == 399


async def test_a_lineage_beyond_the_limit_is_refused_with_advice(
    store: PostgresStore, url: str
) -> None:
    """The limit holds for Data and for Runs; exactly so many are fine."""
    put(url, await a_plan(store), ladder(10))
    leaves = Model({"c" + _id(n)[1:]: ModelRun([("/a", _id(0))], []) for n in range(50)})
    put(url, await a_plan_of(url), leaves)
    start = KnitId(_id(19))
    for read in (store.lineage.get, store.lineage.graph):
        found = await read(start, upstream=None, downstream=0, limit=19)
        assert len(found.data) == 19
        with pytest.raises(TooLarge) as refused:
            await read(start, upstream=None, downstream=0, limit=18)
        assert "limit" in refused.value.advice
        with pytest.raises(TooLarge, match="Runs"):
            await read(KnitId(_id(0)), upstream=0, downstream=None, limit=40)
        assert len((await read(KnitId(_id(0)), upstream=0, downstream=0, limit=1)).data) == 1


async def a_plan_of(url: str) -> PlanId:
    return only(fetch(url, "SELECT plan_id::text FROM plan WHERE name IS NULL"))["plan_id"]
