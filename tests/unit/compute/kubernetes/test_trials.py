"""What the API server would refuse of a run pod, by dry runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.trials import UNCHECKED
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.volumes import Mount, Volume

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
