"""Whole Jobs, word by word: one with nothing but what it needs, and one with everything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from knit_workflows.compute.base import Phase, RunPod
from knit_workflows.compute.kubernetes.pods import observing
from knit_workflows.compute.kubernetes.pods.suspension import observe_suspended
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.compute.kubernetes.specs.options import options_in, options_of
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.plans.model import NodeMode, NodeRule
from knit_workflows.domain.plans.options import PodOptions, Spread, Toleration
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions
from knit_workflows.settings import KubernetesSettings

GOLDEN = Path(__file__).parent / "golden"
MINIMAL = RunPod(
    name="worker-run-r1",
    run_id="r1",
    generation=1,
    plan_id="p1",
    image="x:1",
    inputs=(Mount("/in", Volume("data-knitid-a", "a")),),
)
OPTIONS = PodOptions(
    labels={"team": "vision"},
    annotations={"sidecar.istio.io/inject": "false"},
    tolerations=(
        Toleration("gpu", "Equal", "yes", "NoSchedule"),
        Toleration("spot", "Exists", "", "NoExecute", 30),
    ),
    runtime_class="nvidia",
    priority_class="high",
    image_pull_secrets=("own",),
    shm_size="1Gi",
    topology_spread=(Spread("topology.kubernetes.io/zone", 2, "ScheduleAnyway"),),
    queue="team-a",
)
MAXIMAL = replace(
    MINIMAL,
    name="worker-run-r1-3",
    generation=3,
    outputs=(Mount("/out", Volume("data-knitid-b", "b")),),
    entrypoint=("python", "$0"),
    args=("--deep",),
    resources={"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
    on_node=(NodeRule(NodeMode.MUST, "gpu", "yes"), NodeRule(NodeMode.PREFER, "zone", "a")),
    service_account="trainer",
    env={"A": "b"},
    options=OPTIONS,
)
EVERYTHING = KubernetesSettings.model_validate(
    {
        "kube_namespace": "ns",
        "pod_image": "pod:1",
        "pod_image_pull_policy": "IfNotPresent",
        "version": "v9",
        "priority_class": "low",
        "image_pull_secrets": ["all"],
        "ephemeral_storage": "10Gi",
        "restricted": True,
        "run_pods": {"labels": {"site": "x", "team": "none"}, "shm_size": "64Mi", "queue": "q"},
    }
)
PLAIN = KubernetesSettings(kube_namespace="ns", pod_image="pod:1", version="v9")


@pytest.mark.parametrize(
    ("name", "pod", "settings"),
    [("minimal", MINIMAL, PLAIN), ("maximal", MAXIMAL, EVERYTHING)],
)
def test_a_job_is_what_it_was(name: str, pod: RunPod, settings: KubernetesSettings) -> None:
    """A change of these files is a change of what runs on every cluster: look at it.

    `python -m tests.unit.compute.kubernetes.test_options` writes them.
    """
    job = manifests.run_job(pod, settings)
    assert job == json.loads((GOLDEN / f"{name}.json").read_text())
    assert manifests.run_job(pod, settings) == job


@pytest.mark.parametrize("settings", [PLAIN, EVERYTHING])
@pytest.mark.parametrize("pod", [MINIMAL, MAXIMAL])
def test_options_are_read_from_a_job_as_they_were_put_in(
    pod: RunPod, settings: KubernetesSettings
) -> None:
    """Whatever the settings have become; what the Job's controller adds is none of them."""
    job = manifests.run_job(pod, settings)
    added = {"batch.kubernetes.io/job-name": pod.name, "job-name": pod.name, "controller-uid": "u"}
    job["spec"]["template"]["metadata"]["labels"] |= added
    assert options_in(job, pod) == options_of(pod, settings)


def spec_of(pod: RunPod, settings: KubernetesSettings = PLAIN) -> dict:
    return manifests.run_job(pod, settings)["spec"]["template"]["spec"]


def test_what_the_installation_says_holds_for_every_plan() -> None:
    job = manifests.run_job(MINIMAL, EVERYTHING)
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert (labels["site"], labels["team"]) == ("x", "none")
    assert labels["app.kubernetes.io/name"] == "worker"
    spec = job["spec"]["template"]["spec"]
    assert spec["priorityClassName"] == "low"
    assert spec["imagePullSecrets"] == [{"name": "all"}]
    assert spec["volumes"][-1] == {
        "name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"},
    }  # fmt: skip
    assert spec["containers"][0]["resources"]["limits"] == {"ephemeral-storage": "10Gi"}


def test_a_plan_that_says_how_much_it_writes_is_not_limited_otherwise() -> None:
    pod = replace(MINIMAL, resources={"ephemeral-storage": "1Gi"})
    assert spec_of(pod, EVERYTHING)["containers"][0]["resources"]["limits"] == pod.resources


def test_a_toleration_of_both_kinds_is_there_once() -> None:
    twice = replace(
        MINIMAL,
        on_node=(NodeRule(NodeMode.MAY, "gpu", "yes"),),
        options=PodOptions(tolerations=(Toleration("gpu", "Equal", "yes", "NoSchedule"),)),
    )
    assert len(spec_of(twice)["tolerations"]) == 1


def test_a_mountpoint_of_the_plan_at_dev_shm_stays() -> None:
    pod = replace(
        MINIMAL,
        inputs=(Mount("/dev/shm", MINIMAL.inputs[0].volume),),
        options=PodOptions(shm_size="1Gi"),
    )
    spec = spec_of(pod)
    assert [one["mountPath"] for one in spec["containers"][0]["volumeMounts"]] == ["/dev/shm"]
    assert len(spec["volumes"]) == 1


def test_an_installation_may_forbid_keys_to_plans() -> None:
    settings = KubernetesSettings(plan_pod_keys=("labels", "shm_size"))
    manifests.run_job(replace(MINIMAL, options=PodOptions(labels={"a": "b"})), settings)
    with pytest.raises(BackendRejected, match=r"may not have pod\.queue here"):
        manifests.run_job(replace(MINIMAL, options=PodOptions(queue="q")), settings)


def test_a_volume_is_made_as_its_plan_says() -> None:
    settings = PLAIN.model_copy(update={"storage_class": "slow", "access_mode": "ReadWriteOnce"})
    volume = Volume("data-knitid-b", "b", VolumeOptions("fast", "ReadWriteMany", "10Gi"))
    assert manifests.volume_claim(volume, settings)["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "10Gi"}},
        "storageClassName": "fast",
    }
    spec = manifests.volume_claim(Volume("data-knitid-b", "b"), settings)["spec"]
    assert (spec["accessModes"], spec["storageClassName"]) == (["ReadWriteOnce"], "slow")


JOB = {
    "metadata": {
        "name": "j",
        "generation": 1,
        "labels": {"kueue.x-k8s.io/queue-name": "team-a"},
    },
    "spec": {"suspend": True},
}


class TestQueues:
    """Kueue suspends Jobs and resumes them."""

    def test_a_job_that_waits_says_for_what(self) -> None:
        seen = observing.observe_job(JOB, ())
        assert seen.phase is Phase.PENDING
        assert seen.start_failure is not None
        assert "team-a" in seen.start_failure.message
        assert seen.start_failure.reason == "JobSuspended"

    def test_one_that_was_suspended_again_has_failed(self) -> None:
        """Its container may have run, and would run again."""
        job = {**JOB, "metadata": {**JOB["metadata"], "generation": 3}}
        seen = observing.observe_job(job, ())
        assert seen.phase is Phase.FAILED
        assert seen.exit is not None
        assert seen.exit.code == 254
        assert "suspended after its start" in seen.exit.message

    def test_who_suspends_a_job_by_hand_is_not_called_kueue(self) -> None:
        job = {**JOB, "metadata": {"name": "j"}}
        seen = observing.observe_job(job, ())
        assert seen.start_failure is not None
        assert "when somebody resumes it" in seen.start_failure.message
        again = observing.observe_job({**job, "metadata": {"name": "j", "generation": 2}}, ())
        assert again.exit is not None
        assert again.exit.message.endswith("perhaps by somebody")

    def test_one_that_runs_is_not_suspended(self) -> None:
        assert observe_suspended({**JOB, "spec": {"suspend": False}}) is None
        assert observe_suspended({"metadata": {"name": "j"}, "spec": {}}) is None


def write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, pod, settings in (("minimal", MINIMAL, PLAIN), ("maximal", MAXIMAL, EVERYTHING)):
        text = json.dumps(manifests.run_job(pod, settings), indent=2, sort_keys=True)
        (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
