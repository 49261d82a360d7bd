"""What knit measures keeps to the conventions of Prometheus, and has few series."""

from __future__ import annotations

import re

import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from knit_workflows.metrics.instruments import EVERYWHERE, INSTRUMENTS, OF_API, OF_WORKERS

UNITS = (
    "seconds", "bytes", "info", "connections", "limit", "calls", "open", "up", "ready", "runs",
    "total",
)  # fmt: skip
LABELS = {
    "version", "component", "state", "method", "route", "status", "direction", "outcome", "phase",
    "kind", "verb", "destination",
}  # fmt: skip
"""Those whose values are few and known before: a Run, a Data, a Plan or a user are none of them.

There is one destination of scheduled backups at a time.
"""
BY_PLAN = {"knit_plan_runs"}
"""What may name Plans, since it names few of them: `tests/api/test_measuring` counts its series."""

every = pytest.mark.parametrize("one", INSTRUMENTS, ids=lambda one: one._name)


def exposed(one: MetricWrapperBase) -> str:
    """The name under which it is exposed."""
    return f"{one._name}_total" if isinstance(one, Counter) else one._name


@every
def test_a_name_says_whose_it_is_and_in_which_base_unit(one: MetricWrapperBase) -> None:
    name = exposed(one)
    assert re.fullmatch(r"knit(_[a-z]+)+", name)
    assert name.rpartition("_")[2] in UNITS
    # As promtool has it: what is not a counter never ends so, and a type is no part of a name.
    assert name.endswith("_total") == isinstance(one, Counter)
    assert not re.search("gauge|counter|histogram|summary|milli|minutes|hours|_(count|sum)$", name)


@every
def test_what_it_says_is_a_sentence(one: MetricWrapperBase) -> None:
    assert re.fullmatch(r"[A-Z].*\.", one._documentation)


@every
def test_labels_have_few_values(one: MetricWrapperBase) -> None:
    of_plans = {"plan_id", "plan"} if one._name in BY_PLAN else set()
    assert set(one._labelnames) <= LABELS | of_plans


@every
def test_buckets_are_few(one: MetricWrapperBase) -> None:
    if isinstance(one, Histogram):
        assert len(one._upper_bounds) <= 15


def test_every_metric_of_a_registry_is_listed_or_the_librarys() -> None:
    ours = {one._name for one in INSTRUMENTS}
    registries = (EVERYWHERE, OF_API, OF_WORKERS)
    found = [metric.name for registry in registries for metric in registry.collect()]
    mine = [name for name in found if not name.startswith("process_")]
    assert sorted(mine) == sorted(ours)  # none is in two of them either
