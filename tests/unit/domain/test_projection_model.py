"""Matching and paging together say what the plain model of the store's tests says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.matching import assignment_hash, count, page
from knit_workflows.domain.plans.model import Requirement
from knit_workflows.domain.tags import Tag
from tests.memory_store.matching import satisfies
from tests.store.model import ModelData, ModelPlan, ModelRun, expected_runs

NOON = datetime(2024, 11, 18, 12, tzinfo=UTC)
TAGS = st.frozensets(st.sampled_from([Tag("a", "1"), Tag("a", "2"), Tag("b", "1")]), max_size=3)
INSTANTS = st.integers(0, 2).map(lambda i: NOON + timedelta(microseconds=600 * i))
REQUIREMENTS = st.builds(
    Requirement, TAGS, st.sampled_from([None, None, None, "d1"]), st.none() | st.none() | INSTANTS
)
PLANS = st.lists(REQUIREMENTS, min_size=1, max_size=3).map(tuple)
DATA = st.lists(st.tuples(TAGS, st.booleans(), INSTANTS), max_size=5).map(
    lambda rows: [ModelData(f"d{i}", *row) for i, row in enumerate(rows)]
)


def project(arrivals: list[ModelData], plans: list[ModelPlan]) -> list[ModelRun]:
    """Lets Data arrive one by one, each the trigger of what it makes possible."""
    runs: list[ModelRun] = []
    here: list[ModelData] = []
    for arrival in arrivals:
        here.append(arrival)
        for plan in plans:
            candidates = [
                sorted(
                    one.knit_id
                    for one in here
                    if one.done
                    and satisfies(one.tags, one.knit_id, one.timestamp or NOON, requirement)
                )
                for requirement in plan.inputs
            ]
            trigger = {
                i: arrival.knit_id
                for i, knit_ids in enumerate(candidates)
                if arrival.knit_id in knit_ids
            }
            found = page(candidates, trigger, None, 1000)
            assert found.next is None
            assert count(candidates, trigger) == len(found.items)
            runs.extend((plan.plan_id, combination) for combination in found.items)
    return runs


@given(DATA, st.lists(PLANS, max_size=3), st.randoms(use_true_random=False))
def test_every_combination_comes_once_in_whatever_order_data_arrive(
    data: list[ModelData], inputs: list[tuple[Requirement, ...]], chance: Random
) -> None:
    plans = [ModelPlan(f"p{i}", requirements) for i, requirements in enumerate(inputs)]
    arrivals = list(data)
    chance.shuffle(arrivals)
    runs = project(arrivals, plans)
    assert len(runs) == len(set(runs))
    assert set(runs) == expected_runs(data, plans)
    hashes = {(plan, assignment_hash(dict(enumerate(knit_ids)))) for plan, knit_ids in runs}
    assert len(hashes) == len(runs)


@pytest.mark.parametrize(
    ("a", "b", "runs"), [(1, 1, 1), (2, 3, 6), (3, 3, 9), (2, 0, 0), (0, 0, 0)]
)
def test_the_cross_product_of_two_inputs(a: int, b: int, runs: int) -> None:
    tag_a, tag_b = frozenset({Tag("a", "1")}), frozenset({Tag("b", "1")})
    data = [ModelData(f"a{i}", tag_a) for i in range(a)] + [
        ModelData(f"b{i}", tag_b) for i in range(b)
    ]
    plans = [ModelPlan("p", (Requirement(tag_a), Requirement(tag_b)))]
    assert len(expected_runs(data, plans)) == len(project(data, plans)) == runs


def test_two_equal_inputs_may_hold_the_same_data() -> None:
    tags = frozenset({Tag("a", "1")})
    data = [ModelData(f"d{i}", tags) for i in range(3)]
    plans = [ModelPlan("p", (Requirement(tags), Requirement(tags)))]
    assert len(expected_runs(data, plans)) == len(project(data, plans)) == 9
