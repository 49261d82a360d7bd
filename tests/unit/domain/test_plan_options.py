"""Options of run pods and volumes: what is read, what is refused, how two sides are merged."""

from __future__ import annotations

import pytest

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans.graph import identity_hash
from knit_workflows.domain.plans.option_forms import (
    MAX_ANNOTATIONS_BYTES,
    parse_options_change,
    parse_pod,
)
from knit_workflows.domain.plans.options import (
    NO_OPTIONS,
    PlanOptions,
    PodOptions,
    Spread,
    Toleration,
    merged,
    options_document,
    stored_options,
)
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.volumes import VolumeOptions

PLAN = {
    "image": "train:1",
    "inputs": [{"path": "/in", "tags": ["k:v"]}],
    "outputs": [{"path": "/out"}],
    "log": {},
}
POD = {
    "labels": {
        "team": "vision",
        "example.com/cost-centre": "",
        "kueue.x-k8s.io/priority-class": "p",
    },
    "annotations": {"sidecar.istio.io/inject": "false", "note": "any text: at all\n"},
    "tolerations": [
        {"key": "spot", "value": "yes", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "seconds": "0"},
        {"operator": "Exists"},
    ],
    "runtime_class": "nvidia",
    "priority_class": "high",
    "image_pull_secrets": ["regcred"],
    "shm_size": "1024Mi",
    "topology_spread": [{"topology_key": "topology.kubernetes.io/zone", "max_skew": 2}],
    "queue": "team-a",
    "relaunches": "0",
}
READ = PodOptions(
    labels=dict(sorted(POD["labels"].items())),
    annotations=dict(sorted(POD["annotations"].items())),
    tolerations=(
        Toleration("spot", "Equal", "yes", "NoSchedule"),
        Toleration("node.kubernetes.io/unreachable", "Exists", "", "NoExecute", 0),
        Toleration("", "Exists"),
    ),
    runtime_class="nvidia",
    priority_class="high",
    image_pull_secrets=("regcred",),
    shm_size="1Gi",
    topology_spread=(Spread("topology.kubernetes.io/zone", 2),),
    queue="team-a",
    relaunches=0,
)
VOLUME = {"storage_class": "fast", "access_mode": "ReadWriteOnce", "size": "10Gi"}


def test_everything_is_read_and_written_the_same() -> None:
    document = PLAN | {
        "pod": POD,
        "outputs": [{"path": "/out/", "volume": VOLUME}],
        "log": {"volume": {"size": "1Mi"}},
    }
    options = parse_plan(document).options
    volumes = {
        "/out": VolumeOptions("fast", "ReadWriteOnce", "10Gi"),
        "/log": VolumeOptions(size="1Mi"),
    }
    assert options == PlanOptions(READ, volumes)
    written = options_document(options)
    assert stored_options(written) == options
    assert parse_options_change(written) == options


def test_nothing_is_nothing_however_it_is_written() -> None:
    """Earlier Plans, and those of Knitfab, have none of these keys."""
    nothing = {"pod": dict.fromkeys(POD), "log": {"volume": {}}}
    for document in (PLAN, PLAN | nothing, PLAN | {"pod": None}, PLAN | {"pod": {"labels": {}}}):
        assert parse_plan(document).options == NO_OPTIONS
    assert options_document(NO_OPTIONS) == {}
    assert stored_options({}) == NO_OPTIONS


def test_they_are_no_part_of_what_a_plan_is() -> None:
    changed = PLAN | {"pod": POD, "outputs": [{"path": "/out", "volume": VOLUME}]}
    assert identity_hash(parse_plan(changed)) == identity_hash(parse_plan(PLAN))


@pytest.mark.parametrize(
    ("pod", "see"),
    [
        ({"lables": {}}, "pod.lables"),
        ({"labels": ["a"]}, "pod.labels"),
        ({"labels": {"a b": "c"}}, "pod.labels.a b"),
        ({"labels": {"a": "b c"}}, "pod.labels.a"),
        ({"labels": {"a": "x" * 64}}, "pod.labels.a"),
        ({"labels": {"knit/worker.runid": "x"}}, "pod.labels.knit/worker.runid"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "pod.labels.app.kubernetes.io/name"),
        ({"labels": {"job-name": "x"}}, "pod.labels.job-name"),
        ({"labels": {"kueue.x-k8s.io/queue-name": "q"}}, "pod.labels.kueue.x-k8s.io/queue-name"),
        ({"annotations": {"batch.kubernetes.io/x": ""}}, "pod.annotations.batch.kubernetes.io/x"),
        ({"annotations": {"a": "x" * MAX_ANNOTATIONS_BYTES}}, "pod.annotations"),
        ({"annotations": {"a": 1}}, "pod.annotations.a"),
        ({"tolerations": [{"key": "a", "operator": "Equals"}]}, "pod.tolerations[0]"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "pod.tolerations[0]"),
        ({"tolerations": [{"value": "b"}]}, "pod.tolerations[0]"),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "pod.tolerations[0]"),
        ({"tolerations": [{"key": "a", "seconds": 5}]}, "pod.tolerations[0].seconds"),
        ({"runtime_class": "No"}, "pod.runtime_class"),
        ({"priority_class": "a_b"}, "pod.priority_class"),
        ({"image_pull_secrets": [""]}, "pod.image_pull_secrets[0]"),
        ({"shm_size": "512m"}, "pod.shm_size"),
        ({"shm_size": "1k"}, "pod.shm_size"),
        ({"topology_spread": [{}]}, "pod.topology_spread[0].topology_key"),
        (
            {"topology_spread": [{"topology_key": "a", "max_skew": 0}]},
            "pod.topology_spread[0].max_skew",
        ),
        ({"queue": "q" * 64}, "pod.queue"),
        ({"relaunches": -1}, "pod.relaunches"),
        ({"relaunches": "often"}, "pod.relaunches"),
    ],
)  # fmt: skip
def test_what_no_cluster_takes_is_refused_by_its_place(pod: object, see: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        parse_plan(PLAN | {"pod": pod})
    assert refused.value.see == see
    assert refused.value.advice


@pytest.mark.parametrize(
    ("volume", "see"),
    [
        ({"class": "fast"}, "outputs[0].volume.class"),
        ({"storage_class": "F"}, "outputs[0].volume.storage_class"),
        ({"access_mode": "ReadOnlyMany"}, "outputs[0].volume.access_mode"),
        ({"size": "0"}, "outputs[0].volume.size"),
        ({"size": "1.5"}, "outputs[0].volume.size"),
    ],
)
def test_a_volume_that_cannot_be_made_is_refused(volume: object, see: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        parse_plan(PLAN | {"outputs": [{"path": "/out", "volume": volume}]})
    assert refused.value.see == see
    with pytest.raises(InvalidPlan, match="no key 'volume'"):
        parse_plan(PLAN | {"inputs": [{"path": "/in", "tags": ["a:b"], "volume": {}}]})


def test_a_plans_own_options_go_first() -> None:
    installed = parse_pod(
        POD | {"labels": {"team": "all", "site": "x"}, "image_pull_secrets": ["regcred", "b"]}, ""
    )
    own = PodOptions(labels={"team": "vision"}, shm_size="2Gi", image_pull_secrets=("c",))
    both = merged(installed, own)
    assert both.labels == {"team": "vision", "site": "x"}
    assert (both.shm_size, both.runtime_class, both.queue) == ("2Gi", "nvidia", "team-a")
    assert both.image_pull_secrets == ("regcred", "b", "c")
    assert both.tolerations == installed.tolerations
    assert merged(PodOptions(), READ) == READ
    assert merged(READ, PodOptions()) == READ
