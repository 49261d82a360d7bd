from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import pytest

from knit_workflows.domain.errors import InvalidPlan, InvalidRequest, InvalidTag
from knit_workflows.domain.plans.forms import (
    parse_annotation,
    parse_service_account,
    parse_tag_form,
)
from knit_workflows.domain.plans.model import Annotation, NodeMode, NodeRule, PlanSpec
from knit_workflows.domain.plans.resources import parse_resource
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.tags import Tag

LEAST: Mapping[str, object] = {"image": "ab", "inputs": [{"path": "/in", "tags": ["a:1"]}]}


def plan(**changes: object) -> PlanSpec:
    return parse_plan({**LEAST, **changes})


def refused(**changes: object) -> InvalidPlan:
    with pytest.raises(InvalidPlan) as caught:
        plan(**changes)
    assert caught.value.advice
    return caught.value


@pytest.mark.parametrize(
    "rule",
    [
        "a=b",
        "accelerator=gpu",
        "A-1=B-._2",
        "kubernetes.io/arch=arm64",
        "a.b-c.d/e-f=1",
        f"{'k' * 63}={'v' * 63}",
        f"{'.'.join(['p' * 63] * 3)}/k=v",
        f"{'p.' * 126}p/k=v",
        f"{'p' * 64}.io/k=v",
        "nvidia.com/gpu.product=NVIDIA-A100-SXM4-40GB",
        "node_type=gpu",
        "x.io/a_b.c=1",
        "dedicated=",
        "node-role.kubernetes.io/control-plane=",
    ],
)
def test_a_node_label(rule: str) -> None:
    key, _, value = rule.partition("=")
    assert plan(on_node={"must": [rule, rule]}).on_node == (NodeRule(NodeMode.MUST, key, value),)


@pytest.mark.parametrize(
    "rule",
    [
        "=b",
        "a",
        "-a=b",
        "a-=b",
        "_a=c",
        "a.=c",
        "a=b=c",
        "/a=b",
        "x.io/=b",
        "x/y/z=b",
        "-x.io/a=b",
        "x..io/a=b",
        "X.io/a=b",
        " a=b",
        "a=b ",
        "a=-b",
        "a=b_",
        "a=b c",
        f"{'k' * 64}=v",
        f"k={'v' * 64}",
        f"{'p.' * 126}pp/k=v",
        "ä=b",
        "a=ä",
    ],
)
def test_what_is_no_node_label(rule: str) -> None:
    assert refused(on_node={"prefer": ["ok=ok", rule]}).see == "on_node.prefer[1]"


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("a:b:c", Tag("a", "b:c")),
        (" a : b ", Tag("a", "b")),
        ({"key": "a", "value": "b"}, Tag("a", "b")),
        ({"key": " a:", "value": ""}, Tag(" a:", "")),
        ("knit#id:d1", Tag("knit#id", "d1")),
    ],
)
def test_a_tag_has_two_forms(value: object, tag: Tag) -> None:
    assert parse_tag_form(value, "add[0]") == tag


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        1.5,
        True,
        date(2024, 1, 1),
        [],
        ["a:b"],
        "ab",
        "a:b\0",
        "a:\ud800",
        {},
        {"type": "x"},
        {"key": "a"},
        {"key": "a", "value": 1},
        {"key": "a", "value": "b\n"},
        {"key": "a", "value": "b", "x": 1},
        {"key": " knit#id", "value": "x"},
    ],
)
def test_what_is_no_tag_says_where_it_stands(value: object) -> None:
    with pytest.raises(InvalidTag) as caught:
        parse_tag_form(value, "add[3]")
    assert caught.value.reason.startswith("add[3]")
    assert caught.value.see.startswith("add[3]")
    assert caught.value.advice


def test_a_space_behind_the_colon_of_a_yaml_tag_is_explained() -> None:
    error = refused(inputs=[{"path": "/in", "tags": [{"type": "dataset"}]}])
    assert "without a space" in error.advice


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=b", "a", "b"),
        (" a = b=c ", "a", "b=c"),
        ("\u3000a\u3000=\u3000", "a", ""),
        ("=b", "", "b"),
        ("a=two\nlines", "a", "two\nlines"),
    ],
)
def test_an_annotation(text: str, key: str, value: str) -> None:
    assert parse_annotation(text, "add[0]") == Annotation(key, value)


@pytest.mark.parametrize("name", ["a", "trainer", "team.trainer-1", "1" * 253])
def test_a_service_account(name: str) -> None:
    assert parse_service_account(name, "service_account") == name


def test_single_values_are_refused_as_requests() -> None:
    for call in (
        lambda: parse_annotation("a", "add[0]"),
        lambda: parse_service_account("-", "service_account"),
        lambda: parse_resource("cpu", "x", "set.cpu"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.see in {"add[0]", "service_account", "set.cpu"}
