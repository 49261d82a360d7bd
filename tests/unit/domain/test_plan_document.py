from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans.graph import identity_hash
from knit_workflows.domain.plans.rules import parse_plan
from tests.plan_documents import plan_document
from tests.properties import examples

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(":=# '\"\\"), max_size=8
)
KEYS = TEXT.filter(lambda key: not key.strip().startswith("knit#"))
USER_TAGS = st.builds("{}:{}".format, KEYS, TEXT) | st.fixed_dictionaries(
    {"key": KEYS.filter(lambda key: not key.startswith("knit#")), "value": TEXT}
)
INSTANTS = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(timezone(timedelta(hours=9))),
).map(lambda instant: f"knit#timestamp:{instant.isoformat()}")
INPUT_TAGS = st.builds(
    lambda users, system: [*users, *(tag for tag in system if tag)],
    st.lists(USER_TAGS, min_size=1, max_size=3),
    st.tuples(st.none() | st.uuids().map("knit#id:{}".format), st.none() | INSTANTS),
)
LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,5}[a-z0-9])?", fullmatch=True).filter(
    lambda label: label != "log"
)
RULES = st.lists(st.builds("{}={}".format, LABELS, LABELS), max_size=3)
ARGS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    max_size=3,
)

KNIT_ID = f"knit#id:{UUID(int=7)}"
QUANTITIES = st.sampled_from(["1", "2000m", 3, "1024Ki", "1e3"])
PINNED = f"sha256:{'0a' * 32}"
EXCHANGEABLE = ["image", "entrypoint", "args", "log", "on_node", "resources", "active", "priority"]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    names = draw(st.lists(LABELS, min_size=1, max_size=5, unique=True))
    paths = [f"/{name}" + draw(st.sampled_from(["", "/", "/deep"])) for name in names]
    cut = draw(st.integers(1, len(paths)))
    everything = {
        "image": draw(
            st.sampled_from(["a/b", "localhost:5000/ab:v1", "gcr.io/ab:1.0", f"ab@{PINNED}"])
        ),
        "inputs": [{"path": path, "tags": draw(INPUT_TAGS)} for path in paths[:cut]],
        "outputs": [
            {"path": path, "tags": draw(st.lists(USER_TAGS, max_size=2))} for path in paths[cut:]
        ],
        "log": draw(st.none() | st.fixed_dictionaries({"tags": st.lists(USER_TAGS, max_size=2)})),
        "entrypoint": draw(ARGS),
        "args": draw(ARGS),
        "on_node": {mode: draw(RULES) for mode in ("may", "prefer", "must")},
        "resources": draw(
            st.dictionaries(st.sampled_from(["cpu", "nvidia.com/gpu"]), QUANTITIES)
            | st.dictionaries(st.just("memory"), st.sampled_from(["1024Ki", "0.1Gi", 2**40]))
        ),
        "service_account": draw(st.none() | LABELS),
        "annotations": draw(st.lists(st.builds("{}={}".format, TEXT, TEXT), max_size=3)),
        "active": draw(st.none() | st.booleans()),
        "priority": draw(st.none() | st.integers(-1000, 1000)),
    }
    keys = draw(st.permutations(sorted(everything)))
    return {key: everything[key] for key in keys}


def shuffled(value: object, draw: st.DataObject) -> Any:
    """The same document with every list whose order means nothing in another order."""
    if not isinstance(value, dict):
        return value
    return {
        key: draw.draw(st.permutations([shuffled(one, draw) for one in part]))
        if isinstance(part, list) and key not in ("entrypoint", "args")
        else shuffled(part, draw)
        for key, part in value.items()
    }


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
@given(documents())
@pytest.mark.patient
def test_the_document_of_a_plan_is_the_plan(document: dict[str, object]) -> None:
    spec = parse_plan(document)
    written = plan_document(spec)
    assert parse_plan(written) == spec
    assert json.loads(json.dumps(written)) == written
    assert plan_document(parse_plan(written)) == written


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.data())
@pytest.mark.patient
def test_order_and_repetition_mean_nothing(
    document: dict[str, object], draw: st.DataObject
) -> None:
    spec = parse_plan(document)
    other = parse_plan(shuffled(document, draw))
    assert other == spec
    assert plan_document(other) == plan_document(spec)
    assert identity_hash(other) == identity_hash(spec)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
@given(documents(), documents(), st.sets(st.sampled_from(EXCHANGEABLE), max_size=2))
@pytest.mark.patient
def test_the_identity_is_the_document_without_its_mutable_parts(
    one: dict[str, object], other: dict[str, object], taken: set[str]
) -> None:
    mutable = ("active", "annotations", "priority", "resources", "service_account")
    specs = [parse_plan(one), parse_plan({**one, **{key: other[key] for key in taken}})]
    fixed = [
        {key: part for key, part in plan_document(spec).items() if key not in mutable}
        for spec in specs
    ]
    assert (identity_hash(specs[0]) == identity_hash(specs[1])) is (fixed[0] == fixed[1])


def test_what_is_not_given_is_left_out() -> None:
    least = {"image": "ab", "inputs": [{"path": "/in", "tags": ["b:2", "a:1"]}]}
    assert plan_document(parse_plan(least)) == {
        "image": "ab:latest",
        "inputs": [{"path": "/in", "tags": ["a:1", "b:2"]}],
        "outputs": [],
        "active": True,
        "resources": {"cpu": "1", "memory": "1Gi"},
    }


def test_what_is_given_is_written() -> None:
    everything = {
        "service_account": "s", "on_node": {"may": ["a=b"]}, "resources": {}, "active": False,
        "log": {}, "outputs": [], "inputs": [{"path": "/in", "tags": [KNIT_ID]}], "args": ["1"],
        "entrypoint": ["e"], "image": "ab", "annotations": ["a=b"],
    }  # fmt: skip
    written = plan_document(parse_plan(everything))
    assert written["log"] == {"tags": []}
    assert written["on_node"] == {"may": ["a=b"]}
    assert written["inputs"] == [{"path": "/in", "tags": [KNIT_ID]}]


def test_a_tag_that_text_cannot_hold_is_written_as_an_object() -> None:
    tags = [{"key": "a:b", "value": "c"}, {"key": " a", "value": "b "}, "plain:x:y"]
    written = plan_document(parse_plan({"image": "ab", "inputs": [{"path": "/in", "tags": tags}]}))
    assert written["inputs"] == [{"path": "/in", "tags": [tags[1], tags[0], tags[2]]}]


def test_an_instant_is_written_in_utc_milliseconds() -> None:
    tags = ["knit#timestamp:2024-11-18T13:25:32.0709+09:00"]
    spec = parse_plan({"image": "ab", "inputs": [{"path": "/in", "tags": tags}]})
    assert spec.inputs[0].requirement.timestamp == datetime(2024, 11, 18, 4, 25, 32, 70_000, UTC)
    assert plan_document(spec)["inputs"] == [
        {"path": "/in", "tags": ["knit#timestamp:2024-11-18T04:25:32.07+00:00"]}
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "tags", "key", "value", "may", "cpu", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "annotations",
                "image",
                "entrypoint",
                "args",
                "inputs",
                "outputs",
                "log",
                "active",
                "on_node",
                "resources",
                "service_account",
            ]
        ),
        JSON,
    )
)
def test_any_document_is_read_or_refused_with_advice(document: dict[str, object]) -> None:
    try:
        parse_plan(document)
    except InvalidPlan as error:
        assert error.advice
        assert error.reason


@pytest.mark.parametrize("key", ["image", "service_account"])
def test_long_rubbish_is_not_repeated_in_messages(key: str) -> None:
    document = {"image": "ab", "inputs": [{"path": "/in", "tags": ["a:1"]}], key: "X" * 1_000_000}
    with pytest.raises(InvalidPlan) as caught:
        parse_plan(document)
    assert len(caught.value.reason) < 400
