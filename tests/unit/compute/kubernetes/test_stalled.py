"""What is said of a pod that does not start although nothing is wrong with it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.compute.base import Phase, StartFailureKind
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.compute.kubernetes.stalled import claims_of, why_stalled
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
        (pod([]), "Bound", [], BACKEND, "NotScheduled", "no scheduler"),
        (
            pod([{"type": "PodScheduled", "status": "False"}]),
            "Pending",
            [],
            PROGRESS,
            "ClaimsPending",
            "data-knitid-a is Pending",
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
            [{"reason": "Pulling"}, {"reason": "Pulled"}],
            PROGRESS,
            "ContainerCreating",
            "its claims are Bound",
        ),
    ],
)
def test_whose_turn_it_is_is_told(thing, claim, events, kind, reason, words):
    failure = why_stalled(thing, {"data-knitid-a": claim}, events)
    assert (failure.kind, failure.reason) == (kind, reason)
    assert words in failure.message


def test_the_claims_of_a_pod_are_those_it_mounts():
    assert claims_of(pod([])) == ["data-knitid-a"]


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
        looked = api.count("GET pods")
        waiting = asyncio.ensure_future(anext(watch))
        while api.count("GET pods") < looked + 2:
            await asyncio.sleep(0.05)
        assert not waiting.done()
        with_pod(api, "Running", RUNNING)
        assert (await waiting).phase is Phase.RUNNING
    await backend.aclose()
