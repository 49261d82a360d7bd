from __future__ import annotations

import pytest

from knit_workflows.domain.errors import InvalidPlan, InvalidRequest
from knit_workflows.domain.plans.changes import parse_resource_change
from knit_workflows.domain.plans.resources import parse_resource
from knit_workflows.domain.plans.rules import parse_plan


@pytest.mark.parametrize(
    ("name", "value", "canonical"),
    [
        ("cpu", "1000m", "1"),
        ("cpu", 2, "2"),
        ("cpu", 0.5, "500m"),
        ("cpu", "1m", "1m"),
        ("cpu", 0, "0"),
        ("memory", 0, "0"),
        ("memory", "1Mi", "1Mi"),
        ("memory", "1024Mi", "1Gi"),
        ("memory", "1.5Gi", "1536Mi"),
        ("memory", 2_000_000, "2M"),
        ("memory", "500M", "500M"),
        ("memory", "1Ei", "1Ei"),
        ("memory", "1e9", "1e9"),
        ("memory", "2147483648000m", "2147483648"),
        ("memory", "1.1Gi", "1181116007"),
        ("ephemeral-storage", "10Gi", "10Gi"),
        ("ephemeral-storage", 1, "1"),
        ("ephemeral-storage", "0.3Ti", "329853488333"),
        ("hugepages-2Mi", "4Mi", "4Mi"),
        ("hugepages-1Gi", "2Gi", "2Gi"),
        ("nvidia.com/gpu", 1, "1"),
        ("nvidia.com/mig-1g.5gb", "2000m", "2"),
        ("example.com/X_1", "1k", "1k"),
        (f"{'p' * 64}.io/k", 1, "1"),
        (f"{'p.' * 121}pp/k", 1, "1"),
    ],
)
def test_a_resource(name: str, value: object, canonical: str) -> None:
    plan = {"image": "a", "inputs": [{"path": "/in", "tags": ["a:1"]}], "resources": {name: value}}
    found = parse_plan(plan).resources
    assert found[name] == canonical
    assert {"cpu", "memory"} <= set(found)
    assert list(found) == sorted(found)
    assert parse_resource_change({"set": {name: value}}).set == {name: canonical}
    assert parse_resource(name, canonical, "") == canonical


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("cpu", "-1", "negative"),
        ("cpu", "999u", "too little"),
        ("cpu", "0.0001", "too little"),
        ("memory", "-0.1n", "negative"),
        ("nvidia.com/gpu", "500m", "whole"),
        ("nvidia.com/gpu", 0.5, "whole"),
        ("nvidia.com/gpu", -1, "negative"),
        ("hugepages-2Mi", "3Mi", "whole number of pages"),
        ("hugepages-2Mi", "1", "whole number of pages"),
        ("hugepages-big", "2Mi", "not the size of a page"),
        ("hugepages-0", "2Mi", "whole number of pages"),
        ("gpu", 1, "not a resource"),
        ("", 1, "not a resource"),
        ("CPU", 1, "not a resource"),
        ("Nvidia.com/gpu", 1, "not a resource"),
        ("nvidia.com/", 1, "not a resource"),
        ("/gpu", 1, "not a resource"),
        ("a.com/b/c", 1, "not a resource"),
        ("requests.a.com/b", 1, "not a resource"),
        ("a.com/" + "b" * 64, 1, "not a resource"),
        ("a." * 122 + "com/b", 1, "not a resource"),
        ("a.com/b\n", 1, "not a resource"),
        ("cpu", "1e400", "too large"),
        ("cpu", float("inf"), "not a Kubernetes quantity"),
    ],
)
def test_what_kubernetes_would_refuse(name: str, value: object, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_resource(name, value, f"set.{name}")
    assert reason in caught.value.reason
    assert caught.value.advice
    assert caught.value.see == f"set.{name}"


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("memory", "512m", "did you mean 512Mi?"),
        ("memory", "500m", "did you mean 500Mi?"),
        ("memory", "100m", "did you mean 100Mi?"),
        ("memory", "1000m", "did you mean 1000Mi?"),
        ("memory", "1.5", "did you mean 1.5Gi?"),
        ("memory", 0.5, "did you mean 0.5Gi?"),
        ("memory", ".5", "did you mean .5Gi?"),
        ("memory", 512, "did you mean 512Mi?"),
        ("memory", "8", "did you mean 8Mi?"),
        ("memory", "512k", "at least 1Mi"),
        ("memory", "0.5k", "at least 1Mi"),
        ("memory", "0.1m", "at least 1Mi"),
        ("memory", "5e-1", "e.g. 512Mi"),
        ("ephemeral-storage", "512m", "did you mean 512Mi?"),
        ("ephemeral-storage", "1.5", "did you mean 1.5Gi?"),
        ("ephemeral-storage", "0.3Ki", "write whole bytes"),
        ("hugepages-2Mi", "512m", "did you mean 512Mi?"),
        ("hugepages-2Mi", "0.5", "did you mean 0.5Gi?"),
    ],
)
def test_bytes_that_are_too_few_to_be_meant_are_asked_about(
    name: str, value: object, meant: str
) -> None:
    with pytest.raises(InvalidPlan) as caught:
        parse_resource(name, value, f"resources.{name}")
    assert meant in caught.value.advice
    assert str(value) in caught.value.reason
