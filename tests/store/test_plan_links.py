"""Neighbours of Plans and of Data: what a plain model says, at the cost of what there is."""

from __future__ import annotations

import itertools
import random
from typing import Any

import psycopg
import pytest

from knit_workflows.domain.errors import CyclicPlans, EquivalentPlan
from knit_workflows.domain.plans.graph import feeds
from knit_workflows.domain.plans.model import PlanDetail, PlanQuery, PlanSpec
from knit_workflows.store import PostgresStore
from knit_workflows.store.plans import details as plan_details
from knit_workflows.store.runs import details as run_details
from tests.memory_store.matching import satisfies
from tests.store.build import fetch, register, spec, upload

TAGS = [f"{key}:{value}" for key in "ab" for value in "12"] + ["project:x"]
PLANS = 300
Link = tuple[str, str, str, str | None]
"""Consumer and the path of its input, producer and the path of its output."""


def some_tags(dice: random.Random, at_least: int) -> str:
    """Gives few tags of few, the project's more often than not."""
    chosen = dice.sample(TAGS, dice.randint(at_least, 3))
    return " ".join({*chosen, *(TAGS[-1:] if dice.random() < 0.6 else [])})


async def a_catalogue(store: PostgresStore, dice: random.Random, plans: int) -> dict[str, PlanSpec]:
    """Registers Plans as they come, without those that would feed themselves."""
    made: dict[str, PlanSpec] = {}
    data = [await upload(store, some_tags(dice, 0)) for _ in range(12)]
    while len(made) < plans:
        pin = f" knit#id:{dice.choice(data)}" if dice.random() < 0.1 else ""
        inputs = {f"/in{n}": some_tags(dice, 1) + pin for n in range(dice.randint(1, 2))}
        outputs = {f"/out{n}": some_tags(dice, 0) for n in range(dice.randint(0, 2))}
        log = some_tags(dice, 0) if dice.random() < 0.3 else None
        wanted = spec(inputs, outputs, log=log, image=f"demo:{len(made)}")
        try:
            made[await register(store, wanted)] = wanted
        except (CyclicPlans, EquivalentPlan):
            continue
    return made


def model_links(catalogue: dict[str, PlanSpec]) -> set[Link]:
    outputs: list[tuple[str, str | None, Any]] = [
        (plan_id, one.path, one.tags) for plan_id, plan in catalogue.items() for one in plan.outputs
    ]
    outputs += [(one, None, plan.log) for one, plan in catalogue.items() if plan.log is not None]
    return {
        (consumer, one.path, producer, path)
        for consumer, plan in catalogue.items()
        for one in plan.inputs
        for producer, path, tags in outputs
        if feeds(tags, one.requirement)
    }


def links_of(plans: list[PlanDetail]) -> set[Link]:
    """Gives the links that these Plans show on either side."""
    found: set[Link] = set()
    for plan in plans:
        me = plan.summary.plan_id
        for into in plan.inputs:
            found |= {(me, into.mountpoint.path, one.plan.plan_id, one.path) for one in into.links}
        outputs = [(one.mountpoint.path, one.links) for one in plan.outputs]
        for path, links in [*outputs, (None, plan.log.links if plan.log else ())]:
            found |= {(one.plan.plan_id, str(one.path), me, path) for one in links}
    return found


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.patient) for seed in range(1, 6))]


@pytest.mark.parametrize("seed", SEEDS)
async def test_links_are_those_of_a_plain_model(store: PostgresStore, seed: int) -> None:
    """Of all Plans, of one, and of any few of them."""
    dice = random.Random(seed)
    catalogue = await a_catalogue(store, dice, 25)
    wanted = model_links(catalogue)
    assert links_of([*await store.plans.find(PlanQuery())]) == wanted
    for count in (1, 1, 2, 5):
        chosen = frozenset(dice.sample(sorted(catalogue), count))
        shown = links_of([*await store.plans.find(PlanQuery(plan_ids=chosen))])
        assert shown == {one for one in wanted if {one[0], one[2]} & chosen}


@pytest.mark.parametrize("seed", SEEDS)
async def test_nominations_are_those_of_a_plain_model(store: PostgresStore, seed: int) -> None:
    catalogue = await a_catalogue(store, random.Random(seed), 20)
    ids = [row["knit_id"] for row in fetch(store._db._url, "SELECT knit_id::text FROM data")]
    found = await store._db.reading(lambda session: run_details.data_details(session, ids))
    assert len(found) == 12
    for one in found:
        (instant,) = fetch(
            store._db._url, "SELECT timestamp FROM data WHERE knit_id = %s", one.knit_id
        )
        shown = [(x.plan.plan_id, x.mountpoint.path) for x in one.nominations]
        assert shown == sorted(shown)
        assert set(shown) == {
            (plan_id, into.path)
            for plan_id, plan in catalogue.items()
            for into in plan.inputs
            if satisfies(frozenset(one.tags), one.knit_id, instant["timestamp"], into.requirement)
        }


@pytest.mark.parametrize("seed", SEEDS[:3])
async def test_what_is_within_a_project_is_what_a_plain_model_says(
    store: PostgresStore, seed: int
) -> None:
    catalogue = await a_catalogue(store, random.Random(seed), 20)
    for count in (0, 1, 2):
        for chosen in itertools.combinations(TAGS, count):
            projects = spec({"/a": " ".join(chosen)}).inputs[0].requirement.tags
            assert await store.plans.within(projects) == {
                plan_id
                for plan_id, plan in catalogue.items()
                if all(
                    projects & tags
                    for tags in [
                        *(one.requirement.tags for one in plan.inputs),
                        *(one.tags for one in plan.outputs),
                        *([] if plan.log is None else [plan.log]),
                    ]
                )
            }


async def a_project(store: PostgresStore, plans: int) -> list[str]:
    """Registers a chain of Plans, all of whose mountpoints have the tag of one project."""
    return [
        await register(
            store,
            spec(
                {"/in": f"project:x step:{n}"},
                {"/out": f"project:x step:{n + 1}"},
                log=f"project:x log:{n}",
                image=f"demo:{n}",
            ),
        )
        for n in range(plans)
    ]


def rows_read(url: str, statement: str, **parameters: Any) -> int:
    """Counts the rows that all nodes of the statement's plan have looked at."""
    options = "-c jit=off -c timezone=UTC"
    with psycopg.connect(url, options=options, cursor_factory=psycopg.ClientCursor) as connection:
        query = f"EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) {statement}"
        row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return _looked_at(row[0][0]["Plan"])


def _looked_at(node: dict[str, Any]) -> int:
    removed = sum(node[one] for one in node if one.startswith("Rows Removed by"))
    here = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return int(here) + sum(map(_looked_at, node.get("Plans", ())))


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.patient
async def test_a_tag_that_all_plans_have_does_not_pair_them(
    store: PostgresStore, url: str, analyzed: bool
) -> None:
    """With statistics and without; the cost follows the Plans, not their pairs."""
    plan_ids = await a_project(store, PLANS)
    data = [await upload(store, f"project:x step:{n}") for n in range(100)]
    if analyzed:
        fetch(url, "ANALYZE")
    links, nominations = plan_details._SQL["links"], run_details._SQL["nominations"]
    read = rows_read(url, links, plan_ids=plan_ids), rows_read(url, nominations, knit_ids=data)
    print(f"links: {read[0]} rows, nominations: {read[1]}")
    assert read[0] < 200 * PLANS
    assert read[1] < 150 * PLANS
    assert len(links_of([*await store.plans.find(PlanQuery())])) == PLANS - 1
