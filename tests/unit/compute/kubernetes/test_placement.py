"""`on_node` rules become tolerations and affinity as Knitfab's do."""

from __future__ import annotations

from knit_workflows.compute.kubernetes.specs.placement import placement
from knit_workflows.domain.plans.model import NodeMode, NodeRule

MAY, PREFER, MUST = NodeMode.MAY, NodeMode.PREFER, NodeMode.MUST


def tolerated(spec: dict, effect: str) -> set[tuple[str, str]]:
    entries = spec["tolerations"]
    assert all(each["operator"] == "Equal" for each in entries)
    return {(each["key"], each["value"]) for each in entries if each["effect"] == effect}


def expressions(term: dict) -> dict[str, list[str]]:
    assert all(each["operator"] == "In" for each in term["matchExpressions"])
    return {each["key"]: each["values"] for each in term["matchExpressions"]}


def test_no_rules_leave_the_pod_alone():
    assert placement([]) == {}


def test_a_label_without_a_value_is_one_all_the_same():
    spec = placement([NodeRule(MUST, "dedicated", ""), NodeRule(PREFER, "x.io/a.b_c", "")])
    assert tolerated(spec, "NoSchedule") == {("dedicated", ""), ("x.io/a.b_c", "")}
    node = spec["affinity"]["nodeAffinity"]
    (term,) = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert expressions(term) == {"dedicated": [""]}
    (wish,) = node["preferredDuringSchedulingIgnoredDuringExecution"]
    assert expressions(wish["preference"]) == {"x.io/a.b_c": [""]}


def test_all_modes_together():
    spec = placement(
        [
            NodeRule(MAY, "key1", "value1"),
            NodeRule(MAY, "key1", "value2"),
            NodeRule(PREFER, "key1", "value2"),
            NodeRule(PREFER, "key2", "value2"),
            NodeRule(MUST, "key3", "value3"),
            NodeRule(MUST, "key1", "value3"),
        ]
    )
    assert len(spec["tolerations"]) == 9
    assert tolerated(spec, "NoSchedule") == {
        ("key1", "value1"),
        ("key1", "value2"),
        ("key1", "value3"),
        ("key2", "value2"),
        ("key3", "value3"),
    }
    assert tolerated(spec, "PreferNoSchedule") == {
        ("key2", "value2"),
        ("key1", "value2"),
        ("key1", "value3"),
        ("key3", "value3"),
    }
    node = spec["affinity"]["nodeAffinity"]
    (term,) = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert expressions(term) == {"key3": ["value3"], "key1": ["value3"]}
    preferred = node["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [each["weight"] for each in preferred] == [1, 1]
    assert [expressions(each["preference"]) for each in preferred] == [
        {"key1": ["value2"]},
        {"key2": ["value2"]},
    ]


def test_values_of_one_required_key_are_alternatives():
    spec = placement([NodeRule(MUST, "gpu", "a"), NodeRule(MUST, "gpu", "b")])
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert expressions(term) == {"gpu": ["a", "b"]}


def test_may_makes_no_affinity_and_prefer_alone_requires_nothing():
    assert "affinity" not in placement([NodeRule(MAY, "k", "v")])
    node = placement([NodeRule(PREFER, "k", "v")])["affinity"]["nodeAffinity"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in node
