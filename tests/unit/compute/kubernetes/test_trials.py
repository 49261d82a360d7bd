"""What the API server would refuse of a run pod, by dry runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.storage_classes import CLASSES_UNSEEN
from knit_workflows.compute.kubernetes.trials import UNCHECKED
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions
from tests.unit.compute.kubernetes.conftest import storage_class

OUT = Volume("data-knitid-b", "b")
POD = RunPod(
    name="worker-run-r1",
    run_id="r1",
    generation=1,
    plan_id="p1",
    image="x:1",
    inputs=(Mount("/in", Volume("data-knitid-a", "a")),),
    outputs=(Mount("/out", OUT), Mount("/more", Volume("data-knitid-c", "c"))),
    log=Volume("data-knitid-d", "d"),
)


async def test_claim_job_and_pod_are_tried_and_none_is_kept(api, backend):
    """Claims that differ in nothing but their names are tried once."""
    trial = await backend.try_launch(POD)
    assert (trial.refusals, trial.warnings, trial.unchecked) == ((), (), UNCHECKED)
    assert [one["kind"] for one in api.tried] == ["PersistentVolumeClaim", "Job", "Pod"]
    assert api.objects == {}
    _, job, pod = api.tried
    assert pod["spec"] == job["spec"]["template"]["spec"]
    assert pod["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"]


async def test_what_the_server_warns_of_is_told_once(api, backend):
    """RFC 7234: a code, an agent, a quoted text in which signs may be escaped."""
    api.warnings = [
        '299 - "spec.x: \\"y\\" is deprecated"',
        '299 - "fractional byte value \\\\ is invalid", 299 - "second"',
        "nonsense",
    ]
    trial = await backend.try_launch(replace(POD, outputs=(), log=None))
    assert trial.warnings == (
        'the Job: spec.x: "y" is deprecated',
        "the Job: fractional byte value \\ is invalid",
        "the Job: second",
        'the run pod: spec.x: "y" is deprecated',
        "the run pod: fractional byte value \\ is invalid",
        "the run pod: second",
    )
    assert trial.refusals == ()


async def test_a_refused_job_is_not_told_twice(api, backend):
    api.answers_to = {"POST jobs": (422, "it is invalid")}
    trial = await backend.try_launch(POD)
    assert trial.refusals == ("the Job: the Kubernetes API server refuses: it is invalid",)
    assert "POST pods" not in api.requests


async def test_what_quotes_a_plan_at_length_is_cut(api, backend):
    api.answers_to = {"POST jobs": (422, "x" * 100_000)}
    [refusal] = (await backend.try_launch(POD)).refusals
    assert len(refusal) < 1100


async def test_a_pod_is_refused_by_itself(api, backend):
    """Service accounts, classes, limits: the Job of such a pod is accepted."""
    api.answers_to = {"POST pods": (403, 'serviceaccount "x" not found')}
    trial = await backend.try_launch(POD)
    assert trial.refusals == (
        'the run pod: the Kubernetes API server refuses: serviceaccount "x" not found',
    )


async def test_a_full_quota_passes(api, backend):
    """It is no reason never to start, so it is told and does not refuse."""
    text = "exceeded quota: q, requested: cpu=1, used: cpu=2, limited: cpu=2"
    api.answers_to = {
        "POST persistentvolumeclaims": (403, text), "POST jobs": (403, text),
    }  # fmt: skip
    trial = await backend.try_launch(POD)
    assert trial.refusals == ()
    assert [one.partition(":")[0] for one in trial.warnings] == [
        "the claim of an output or log would have to wait",
        "the Job would have to wait",
    ]


async def test_what_no_job_can_be_made_of_is_refused_without_the_server(api, backend):
    trial = await backend.try_launch(replace(POD, log=OUT))
    assert trial.refusals == ("two outputs share one Data: b",)
    assert api.requests == []


async def test_a_server_that_is_away_says_nothing_of_the_pod(api, backend):
    api.answers_to = {"POST jobs": (503, "starting")}
    with pytest.raises(BackendUnavailable, match="starting"):
        await backend.try_launch(POD)


def with_volume(**options: str) -> RunPod:
    volume = replace(OUT, options=VolumeOptions(**options))
    return replace(POD, outputs=(Mount("/out", volume),), log=None)


async def test_a_class_that_does_not_exist_is_refused(api, backend):
    """No dry run says so: the claim would be accepted, and wait for ever."""
    trial = await backend.try_launch(with_volume(storage_class="slow"))
    [refusal] = trial.refusals
    assert "the claim of an output or log: there is no StorageClass slow; `kubectl get" in refusal
    api.classes["slow"] = storage_class("slow")
    trial = await backend.try_launch(with_volume(storage_class="slow"))
    assert (trial.refusals, trial.warnings, trial.unchecked) == ((), (), UNCHECKED)


async def test_without_a_default_class_volumes_have_to_be_made_by_hand(api, backend):
    api.classes = {"other": storage_class("other")}
    trial = await backend.try_launch(with_volume())
    [warning] = trial.warnings
    assert "names no StorageClass, and the cluster has no default one" in warning
    assert trial.refusals == ()


@pytest.mark.parametrize(
    ("provisioner", "mode", "told"),
    [
        ("ebs.csi.aws.com", "ReadWriteMany", "gives no ReadWriteMany volumes"),
        ("rook-ceph.rbd.csi.ceph.com", "ReadWriteMany", "gives no ReadWriteMany volumes"),
        ("ebs.csi.aws.com", "ReadWriteOnce", None),
        ("nfs.csi.k8s.io", "ReadWriteMany", None),
        ("kubernetes.io/no-provisioner", "ReadWriteOnce", "class of-it are made by hand"),
    ],
)
async def test_an_access_mode_that_a_provisioner_has_not_is_told(
    api, backend, provisioner, mode, told
):
    """As a warning: others may know better. The newest default class counts."""
    api.classes["of-it"] = storage_class("of-it", provisioner, default=True)
    api.classes["usual"]["metadata"]["creationTimestamp"] = ""
    trial = await backend.try_launch(with_volume(access_mode=mode))
    assert trial.refusals == ()
    if told is None:
        assert trial.warnings == ()
    else:
        [warning] = trial.warnings
        assert told.replace("class of-it", "StorageClass of-it") in warning


async def test_who_may_not_look_at_classes_says_so(api, backend):
    api.answers_to = {"GET storageclasses": (403, "no")}
    trial = await backend.try_launch(POD)
    assert trial.unchecked == (CLASSES_UNSEEN, *UNCHECKED)
    assert (trial.refusals, trial.warnings) == ((), ())


async def test_a_size_that_a_limit_range_forbids_is_refused(api, backend):
    text = "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi"
    api.answers_to = {"POST persistentvolumeclaims": (403, text)}
    [refusal] = (await backend.try_launch(with_volume(size="5Gi"))).refusals
    assert "the claim of an output or log: " in refusal
    assert "1Gi, but request is 5Gi" in refusal
