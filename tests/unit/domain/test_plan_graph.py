from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.plans.graph import PlanNode, feeds, find_cycle, identity_hash, node_of
from knit_workflows.domain.plans.model import (
    Image,
    NodeMode,
    NodeRule,
    PlanInput,
    PlanOutput,
    PlanSpec,
    Requirement,
)
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.tags import Tag, parse_tag

NOON = datetime(2024, 11, 18, 12, 0, 0, 70_000, UTC)
DOCUMENT: dict[str, object] = {
    "image": "localhost:30503/train:v2",
    "entrypoint": ["python", "train.py"],
    "args": ["--epochs", "3"],
    "inputs": [
        {"path": "/in/data", "tags": ["type:dataset", "project:demo"]},
        {"path": "/in/model", "tags": ["type:model", "knit#timestamp:2024-11-18T12:00:00.07Z"]},
    ],
    "outputs": [{"path": "/out/a", "tags": ["x:1"]}, {"path": "/out/b", "tags": ["x:2", "y:1"]}],
    "log": {"tags": ["type:log"]},
    "on_node": {"may": ["vram=large"], "must": ["accelerator=gpu", "zone=a"]},
}


def of(*texts: str) -> frozenset[Tag]:
    return frozenset(map(parse_tag, texts))


def test_the_identity_of_stored_plans_never_changes() -> None:
    known = "20d0526b3e568001b1bb90446abc2919873b8a1bd04b2ab931fae109ce96b004"
    assert identity_hash(parse_plan(DOCUMENT)) == known


def changed(**changes: object) -> str:
    return identity_hash(parse_plan({**DOCUMENT, **changes}))


INPUTS = DOCUMENT["inputs"]
OUTPUTS = DOCUMENT["outputs"]
assert isinstance(INPUTS, list)
assert isinstance(OUTPUTS, list)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": INPUTS[::-1]},
        {"outputs": OUTPUTS[::-1]},
        {"outputs": [OUTPUTS[0], {"path": "/out/b", "tags": ["y:1", "x:2", "x:2"]}]},
        {"on_node": {"must": ["zone=a", "accelerator=gpu", "zone=a"], "may": ["vram=large"]}},
        {"outputs": [OUTPUTS[0], {**OUTPUTS[1], "path": "/out/b/"}]},
        {"resources": {"cpu": 8}},
        {"active": False},
        {"service_account": "trainer"},
        {"annotations": ["owner=alice"]},
        {
            "inputs": [
                INPUTS[0],
                {
                    "path": "/in/model",
                    "tags": ["type:model", "knit#timestamp:2024-11-18T21:00:00.07+09:00"],
                },
            ]
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_makes_no_new_plan(changes: dict[str, object]) -> None:
    assert changed(**changes) == changed()


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "localhost:30503/train:v3"},
        {"image": "localhost:30504/train:v2"},
        {"inputs": INPUTS[:1]},
        {"inputs": [INPUTS[0], {"path": "/in/model", "tags": ["type:model"]}]},
        {
            "inputs": [
                INPUTS[0],
                {
                    "path": "/in/model",
                    "tags": ["type:model", "knit#id:8fbc7cfa-3102-4793-9dfe-679d40957a21"],
                },
            ]
        },
        {"inputs": [{**INPUTS[0], "path": "/in/other"}, INPUTS[1]]},
        {"outputs": OUTPUTS[:1]},
        {"outputs": [OUTPUTS[0], {"path": "/out/b", "tags": ["x:2"]}]},
        {"outputs": [{"path": "/out/a", "tags": []}, OUTPUTS[1]]},
        {"log": None},
        {"log": {"tags": []}},
        {"entrypoint": ["train.py", "python"]},
        {"entrypoint": None},
        {"args": ["3", "--epochs"]},
        {"args": []},
        {"entrypoint": ["python", "train.py", "--epochs", "3"], "args": []},
        {"on_node": None},
        {"on_node": {"prefer": ["vram=large"], "must": ["accelerator=gpu", "zone=a"]}},
    ],
)
def test_what_makes_a_new_plan(changes: dict[str, object]) -> None:
    assert changed(**changes) != changed()


def test_parts_cannot_be_mistaken_for_one_another() -> None:
    one = Requirement(of("a:b"))
    plain = PlanSpec(image=Image("i", "t"), inputs=(PlanInput("/in", one),))
    lookalikes = [
        plain,
        replace(plain, args=("a", "b")),
        replace(plain, args=("ab",)),
        replace(plain, args=('a","b',)),
        replace(plain, entrypoint=("a", "b")),
        replace(plain, entrypoint=("a",), args=("b",)),
        replace(plain, entrypoint=("[args]", "a", "b")),
        replace(plain, outputs=(PlanOutput("/log", of("a:b")),)),
        replace(plain, log=of("a:b")),
        replace(plain, log=frozenset({Tag("a:b", "")})),
        replace(plain, log=frozenset({Tag("a", "b:")})),
        replace(plain, inputs=(PlanInput("/in", replace(one, knit_id="x")),)),
        replace(plain, inputs=(PlanInput("/in", replace(one, timestamp=NOON)),)),
        replace(plain, image=Image("i:t", "t")),
        replace(plain, image=Image("i", "t:t")),
        replace(plain, image=Image("i", "t", "sha256:1")),
        replace(plain, image=Image("i", "t", "sha256:2")),
        replace(plain, image=Image("i", "", "sha256:1")),
        replace(plain, on_node=(NodeRule(NodeMode.MAY, "k", "v"),)),
        replace(plain, on_node=(NodeRule(NodeMode.MAY, "v", "k"),)),
        replace(plain, on_node=(NodeRule(NodeMode.MUST, "k", "v"),)),
    ]
    assert len({identity_hash(spec) for spec in lookalikes}) == len(lookalikes)


def test_an_instant_is_the_same_in_every_zone() -> None:
    spec = parse_plan(DOCUMENT)
    first, second = spec.inputs
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    moved = replace(second, requirement=replace(second.requirement, timestamp=tokyo))
    assert identity_hash(replace(spec, inputs=(moved, first))) == identity_hash(spec)


def test_the_identity_of_a_plan_never_changes() -> None:
    """It is stored: a change would let every Plan be registered once more."""
    assert changed() == "20d0526b3e568001b1bb90446abc2919873b8a1bd04b2ab931fae109ce96b004"


@pytest.mark.parametrize(
    ("output", "requirement", "expected"),
    [
        (of("a:1"), Requirement(of("a:1")), True),
        (of("a:1", "b:2"), Requirement(of("a:1")), True),
        (of("a:1"), Requirement(of("a:1", "b:2")), False),
        (of("a:2"), Requirement(of("a:1")), False),
        (of(), Requirement(of("a:1")), False),
        (of("a:1"), Requirement(of("a:1"), "d1"), False),
        (of("a:1"), Requirement(of("a:1"), None, NOON), False),
        (of("a:1"), Requirement(of(), "d1"), False),
        (of("a:1"), Requirement(of()), False),
    ],
)
def test_an_output_feeds_inputs_that_ask_for_no_more(
    output: frozenset[Tag], requirement: Requirement, expected: bool
) -> None:
    assert feeds(output, requirement) is expected


def node(inputs: list[str], outputs: list[str]) -> PlanNode:
    """Each text is one mountpoint: `a:1 b:2`."""
    return PlanNode(
        tuple(Requirement(of(*text.split())) for text in inputs),
        tuple(of(*text.split()) for text in outputs),
    )


@pytest.mark.parametrize(
    ("new", "others", "cycle"),
    [
        (node(["a:1"], ["b:1"]), {}, None),
        (node(["a:1"], ["a:1"]), {}, ()),
        (node(["a:1"], ["b:1", "a:1 c:1"]), {}, ()),
        (node(["a:1 c:1"], ["a:1"]), {}, None),
        (node(["a:1"], ["b:1"]), {"p": node(["b:1"], ["a:1"])}, ("p",)),
        (node(["a:1"], ["b:1"]), {"p": node(["b:1", "z:1"], ["a:1"])}, ("p",)),
        (node(["a:1"], ["b:1"]), {"p": node(["b:1"], ["c:1"])}, None),
        (
            node(["a:1"], ["b:1"]),
            {"p": node(["b:1"], ["c:1"]), "q": node(["c:1"], ["a:1"])},
            ("p", "q"),
        ),
        (
            node(["a:1"], ["b:1"]),
            {
                "long1": node(["b:1"], ["c:1"]),
                "long2": node(["c:1"], ["a:1"]),
                "short": node(["b:1"], ["a:1"]),
            },
            ("short",),
        ),
        # A Plan reached once more, by another input, keeps its shortest way.
        (
            node(["a:1"], ["b:1"]),
            {"detour": node(["b:1"], ["c:1"]), "p": node(["b:1", "c:1"], ["a:1"])},
            ("p",),
        ),
        # A cycle among others is none of the new Plan's business, and must not trap the walk.
        (node(["a:1"], ["b:1"]), {"p": node(["b:1"], ["c:1", "b:1"])}, None),
    ],
)
def test_a_cycle_is_the_shortest_way_back(
    new: PlanNode, others: dict[str, PlanNode], cycle: tuple[str, ...] | None
) -> None:
    assert find_cycle(new, {PlanId(name): one for name, one in others.items()}) == cycle


def test_logs_count_and_pinned_inputs_do_not() -> None:
    spec = PlanSpec(
        image=Image("i", "t"), inputs=(PlanInput("/in", Requirement(of("a:1"))),), log=of("a:1")
    )
    assert find_cycle(node_of(spec), {}) == ()
    pinned = replace(spec, inputs=(PlanInput("/in", Requirement(of("a:1"), "d1")),))
    assert find_cycle(node_of(pinned), {}) is None


def test_the_spam_example_of_the_guide_is_acyclic() -> None:
    p = "project:spam"
    initial = node([f"{p} type:dataset mode:initial-train"], [f"{p} type:model"])
    validate = node([f"{p} type:dataset mode:validate", f"{p} type:model"], [f"{p} type:metrics"])
    others = {PlanId("initial"): initial, PlanId("validate"): validate}
    data = f"{p} type:dataset mode:incremental-train"
    incremental = node([data, f"{p} type:model mode:incremental-train"], [f"{p} type:model"])
    assert find_cycle(incremental, others) is None
    assert find_cycle(node([data, f"{p} type:model"], [f"{p} type:model"]), others) == ()


TAGS = st.sampled_from([Tag(key, value) for key in "ab" for value in "12"])
REQUIREMENTS = st.builds(
    Requirement, st.frozensets(TAGS, max_size=3), st.sampled_from([None, None, None, "d1"])
)
NODES = st.builds(
    PlanNode,
    st.lists(REQUIREMENTS, min_size=1, max_size=3).map(tuple),
    st.lists(st.frozensets(TAGS, max_size=4), max_size=2).map(tuple),
)


def arrow(upstream: PlanNode, downstream: PlanNode) -> bool:
    return any(feeds(tags, wish) for tags in upstream.outputs for wish in downstream.inputs)


@given(NODES, st.lists(NODES, max_size=6))
def test_a_cycle_is_found_whenever_a_naive_search_finds_one(
    new: PlanNode, nodes: list[PlanNode]
) -> None:
    others = {PlanId(str(i)): one for i, one in enumerate(nodes)}
    lengths = []

    def search(here: PlanNode, way: tuple[PlanId, ...]) -> None:
        if arrow(here, new):
            lengths.append(len(way))
        for plan_id, one in others.items():
            if plan_id not in way and arrow(here, one):
                search(one, (*way, plan_id))

    search(new, ())
    found = find_cycle(new, others)
    assert (found is None) is (not lengths)
    if found is not None:
        assert len(found) == min(lengths)
        steps = [new, *(others[plan_id] for plan_id in found), new]
        assert all(arrow(one, other) for one, other in pairwise(steps))


@pytest.mark.patient
def test_five_thousand_plans_take_no_time() -> None:
    """One chain of Plans whose inputs all share two tags, closed by the new one."""
    size = 5000
    common = "project:demo type:frames"
    others = {
        PlanId(f"{i:05}"): node([f"{common} stage:{i}"], [f"{common} stage:{i + 1}"])
        for i in range(size)
    }
    found = find_cycle(node([f"{common} stage:{size}"], [f"{common} stage:0"]), others)
    assert found is not None
    assert len(found) == size


def test_five_thousand_plans_without_a_rare_tag_take_no_time() -> None:
    others = {
        PlanId(f"{i:05}"): node(["project:demo"], [f"project:demo n:{i}"]) for i in range(5000)
    }
    assert find_cycle(node(["other:1"], ["project:demo"]), others) is None
