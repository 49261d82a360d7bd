"""What is said of a pod that does not start although nothing is wrong with it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.compute.base import Phase, StartFailureKind
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.compute.kubernetes.pods.stalled import (
    ClaimState,
    claims_of,
    read_claim,
    why_stalled,
)
from tests.waiting import PATIENCE

from .test_backend import POD, RUNNING, with_pod

BACKEND, PROGRESS = StartFailureKind.BACKEND, StartFailureKind.PROGRESS
SCHEDULED = [{"type": "PodScheduled", "status": "True"}]
CREATING = [{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]


def pod(conditions: list, statuses: list | None = None) -> dict:
    volumes = [{"persistentVolumeClaim": {"claimName": "data-knitid-a"}}, {"emptyDir": {}}]
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "volumes": volumes},
        "status": {"conditions": conditions, "containerStatuses": statuses or []},
    }


@pytest.mark.parametrize(
    ("thing", "claim", "events", "kind", "reason", "words"),
    [
        (None, "Bound", [], BACKEND, "NoPod", "no pod for its Job"),
        (pod([]), "Bound", [], BACKEND, "NotScheduled", "no scheduler named default-scheduler"),
        (
            pod([]),
            "Pending",
            [],
            BACKEND,
            "NotScheduled",
            "its claims are data-knitid-a is Pending",
        ),
        (
            pod([{"type": "PodScheduled", "status": "False"}]),
            "Pending",
            [],
            PROGRESS,
            "ClaimsPending",
            "data-knitid-a is Pending",
        ),
        (
            pod([{"type": "PodScheduled", "status": "False"}]),
            "Bound",
            [],
            PROGRESS,
            "ClaimsPending",
            "all are Bound",
        ),
        (pod(SCHEDULED, CREATING), "Lost", [], PROGRESS, "ClaimsPending", "data-knitid-a is Lost"),
        (pod(SCHEDULED), "Bound", [], BACKEND, "NodeSilent", "node n1"),
        (
            pod(SCHEDULED, CREATING),
            "Bound",
            [{"reason": "Scheduled"}, {"reason": "Pulling", "message": 'Pulling image "x:1"'}],
            PROGRESS,
            "Pulling",
            'Pulling image "x:1"',
        ),
        (
            pod(SCHEDULED, CREATING),
            "Bound",
            [{"reason": "Pulling"}],
            PROGRESS,
            "Pulling",
            "the node n1: Pulling an image",
        ),
        (
            pod(SCHEDULED, CREATING),
            "Bound",
            [{"reason": "Pulling"}, {"reason": "Pulled"}],
            PROGRESS,
            "ContainerCreating",
            "its claims are Bound",
        ),
    ],
)
def test_whose_turn_it_is_is_told(thing, claim, events, kind, reason, words):
    failure = why_stalled(thing, {"data-knitid-a": ClaimState(claim)}, events)
    assert (failure.kind, failure.reason) == (kind, reason)
    assert words in failure.message


def test_the_claims_of_a_pod_are_those_it_mounts():
    assert claims_of(pod([])) == ["data-knitid-a"]


WAITING_CLAIM = {
    "metadata": {
        "name": "data-knitid-a",
        "annotations": {
            "volume.kubernetes.io/selected-node": "n1",
            "volume.kubernetes.io/storage-provisioner": "idle.example",
        },
    },
    "spec": {"storageClassName": "late"},
    "status": {"phase": "Pending"},
}


def test_a_claim_of_a_class_that_waits_for_its_pod_is_told_with_all_that_is_known():
    """The pod has neither a condition nor an event for ten minutes then."""
    events = [{"message": "waiting for first consumer"}, {"message": "Waiting for a volume\n"}]
    failure = why_stalled(pod([]), {"data-knitid-a": read_claim(WAITING_CLAIM, events)}, [])
    assert (failure.kind, failure.reason) == (PROGRESS, "ClaimsPending")
    assert failure.message == (
        "the pod waits for its claims: data-knitid-a is Pending (class late, provisioner "
        "idle.example, for the node n1: Waiting for a volume)"
    )


def test_a_claim_that_is_gone_or_bound_needs_few_words():
    assert read_claim(None).words == "missing"
    bound = WAITING_CLAIM | {"status": {"phase": "Bound"}}
    assert read_claim(bound, [{"message": "ProvisioningSucceeded"}]).words == "Bound"


def test_another_scheduler_is_named():
    thing = pod([])
    thing["spec"]["schedulerName"] = "no-such"
    assert "no scheduler named no-such" in why_stalled(thing, {}, []).message


@pytest.mark.parametrize(
    ("policy", "started", "reason", "words"),
    [
        (None, None, "InitContainer", "the init container theirs"),
        ("Always", False, "SidecarStarting", "the sidecar theirs"),
        ("Always", True, "ContainerCreating", "prepares the pod"),
    ],
)
def test_init_containers_of_others_are_told(policy, started, reason, words):
    """An admission webhook adds them: one that takes long, or never says that it has started."""
    thing = pod(SCHEDULED, CREATING)
    thing["spec"]["initContainers"] = [{"name": "theirs", "restartPolicy": policy}]
    running = {"running": {"startedAt": "2026-01-02T03:04:05Z"}}
    status = {"name": "theirs", "state": running, "started": started}
    thing["status"]["initContainerStatuses"] = [status]
    failure = why_stalled(thing, {}, [])
    assert (failure.kind, failure.reason) == (PROGRESS, reason)
    assert words in failure.message


@pytest.mark.patient
async def test_a_watch_looks_closer_after_a_while(api, settings):
    """At a Job without a pod, then at a pod without a word; nothing is left of it once it runs."""
    backend = KubernetesBackend(
        settings.model_copy(update={"stalled_after": timedelta(seconds=0.3)})
    )
    await backend.open()
    await backend.launch(POD)
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
        assert (await anext(watch)).start_failure is None
        seen = await anext(watch)
        assert (seen.phase, seen.start_failure.reason) == (Phase.PENDING, "NoPod")
        with_pod(api, "Pending")
        while (
            seen := await anext(watch)
        ).start_failure is None or seen.start_failure.reason == "NoPod":
            pass
        assert seen.start_failure.reason == "NotScheduled"
        with_pod(api, "Running", RUNNING)
        seen = await anext(watch)
        assert (seen.phase, seen.start_failure) == (Phase.RUNNING, None)
    await backend.aclose()


async def test_a_server_that_is_away_explains_nothing(api, settings):
    """The pod is told as it was seen; that the server is away is told by the watch."""
    backend = KubernetesBackend(
        settings.model_copy(update={"stalled_after": timedelta(seconds=0.1)})
    )
    await backend.open()
    with_pod(api, "Pending")
    for query in ("GET events", "GET persistentvolumeclaims"):
        api.answers_to[query] = (503, "later")
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
        assert (await anext(watch)).start_failure is None
        looked = api.count("GET events")
        waiting = asyncio.ensure_future(anext(watch))
        while api.count("GET events") < looked + 2:
            await asyncio.sleep(0.05)
        assert not waiting.done()
        with_pod(api, "Running", RUNNING)
        assert (await waiting).phase is Phase.RUNNING
    await backend.aclose()
