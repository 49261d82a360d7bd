"""What is written as plain values is what the types of `schemas` describe: to the word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import to_json

from knit_workflows.domain import data, hooks
from knit_workflows.domain.plans import model
from knit_workflows.domain.runs import run as runs
from knit_workflows.domain.tags import Tag
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.data import Data
from knit_workflows.wire.hooks.deliveries import HookDelivery, Hooks
from knit_workflows.wire.mapping import (
    ToWire,
    delivery_to_wire,
    event_to_wire,
    hooks_to_wire,
    preview_to_wire,
)
from knit_workflows.wire.plans import Plan, PlanPreview
from knit_workflows.wire.runs import Run, RunEvent
from tests.properties import examples

st.register_type_strategy(
    Tag, st.builds(Tag, st.text("abc#", min_size=1, max_size=3), st.text("abc:", max_size=3))
)
st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))


def few(kind: Any) -> st.SearchStrategy[Any]:
    """Short tuples: those within those within those of a Plan would take seconds to draw."""
    *inside, last = get_args(kind)
    if last is ...:
        return st.lists(st.from_type(inside[0]), max_size=3).map(tuple)
    return st.tuples(*map(st.from_type, [*inside, last]))


st.register_type_strategy(tuple, few)


def objects(value: BaseModel) -> Iterator[BaseModel]:
    """Gives a value of the wire and all within it."""
    yield value
    for _, inside in value:
        for one in inside if isinstance(inside, list) else [inside]:
            if isinstance(one, BaseModel):
                yield from objects(one)


@pytest.mark.parametrize(
    ("kind", "write", "described"),
    [
        (data.DataDetail, lambda one: ToWire().data(one), Data),
        (model.PlanDetail, lambda one: ToWire().plan(one), Plan),
        (model.PlanPreview, preview_to_wire, PlanPreview),
        (runs.RunDetail, lambda one: ToWire().run(one), Run),
        (runs.RunEvent, event_to_wire, RunEvent),
        (hooks.HooksInForce, hooks_to_wire, Hooks),
        (hooks.HookDelivery, delivery_to_wire, HookDelivery),
    ],
)
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(lot=st.data())
@pytest.mark.patient
def test_as_the_types_say(lot: Any, kind: Any, write: Any, described: type[BaseModel]) -> None:
    """The same keys in the same order, the same are left out, and none is unknown."""
    written = to_json(write(lot.draw(st.from_type(kind))))
    read = described.model_validate_json(written)
    assert json.dumps(to_wire(read)) == json.dumps(json.loads(written))
    assert [one.model_extra for one in objects(read) if one.model_extra] == []
