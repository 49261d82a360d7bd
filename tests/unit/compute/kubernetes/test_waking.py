"""A scheduler that has not noticed that a pod's claims are bound is woken."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from knit_workflows.compute.base import Phase
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.compute.kubernetes.pods.waking import WOKEN, is_held_unbound, wake_scheduler
from knit_workflows.domain.errors import TransferNotReady
from tests.waiting import PATIENCE

from .test_backend import POD, RUNNING, TRANSFER, with_pod

CLAIMS = ("data-knitid-a", "data-knitid-b")
MESSAGE = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
HELD = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": MESSAGE}


def with_claims(api, *phases: str) -> None:
    for name, phase in zip(CLAIMS, phases, strict=True):
        api.put("persistentvolumeclaims", {"metadata": {"name": name}, "status": {"phase": phase}})


def held(api, collection_name: str = "worker-run-r1-x") -> None:
    """The scheduler has left the pod alone since it looked at its claims."""
    pod = api.objects["pods", collection_name]
    pod["status"]["conditions"] = [HELD]
    pod["spec"]["volumes"] = [{"persistentVolumeClaim": {"claimName": name}} for name in CLAIMS]
    api.put("pods", pod)


def woken(api) -> list[str]:
    """The claims that were changed for the scheduler."""
    return [
        name
        for (collection, name), thing in api.objects.items()
        if collection == "persistentvolumeclaims"
        and WOKEN in (thing["metadata"].get("annotations") or {})
    ]


@pytest.fixture
async def backend(api, settings):
    backend = KubernetesBackend(settings)
    await backend.open()
    yield backend
    await backend.aclose()


@pytest.mark.parametrize(
    ("condition", "is_held"),
    [
        (HELD, True),
        ({**HELD, "message": "0/1 nodes are available: 1 Insufficient cpu"}, False),
        ({**HELD, "status": "True"}, False),
        ({"type": "Ready", "status": "False", "message": MESSAGE}, False),
        ({"type": "PodScheduled", "status": "False"}, False),
    ],
)
def test_the_scheduler_says_that_claims_hold_a_pod_back(condition: dict, is_held: bool) -> None:
    assert is_held_unbound({"status": {"conditions": [condition]}}) is is_held


async def test_a_watch_wakes_it_once(api, backend) -> None:
    with_pod(api, "Pending")
    held(api)
    with_claims(api, "Bound", "Bound")
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
        assert (await anext(watch)).phase is Phase.PENDING
        waiting = asyncio.ensure_future(anext(watch))
        while not woken(api):
            await asyncio.sleep(0.01)
        assert woken(api) == [CLAIMS[-1]]
        assert not await wake_scheduler(backend._server, CLAIMS)  # it has been, just now
        with_pod(api, "Running", RUNNING)
        while (await waiting).phase is not Phase.RUNNING:
            waiting = asyncio.ensure_future(anext(watch))
    assert api.count("PATCH") == 1


@pytest.mark.parametrize("phases", [("Bound", "Pending"), ("Pending", "Bound")])
async def test_claims_that_are_not_bound_are_waited_for(api, backend, phases) -> None:
    with_claims(api, *phases)
    assert not await wake_scheduler(backend._server, CLAIMS)
    assert not await wake_scheduler(backend._server, (*CLAIMS[:1], "gone"))
    assert not await wake_scheduler(backend._server, ())
    assert not api.count("PATCH")


async def test_without_the_right_the_pod_is_watched_all_the_same(api, backend) -> None:
    api.answers_to[f"PATCH persistentvolumeclaims/{CLAIMS[-1]}"] = (403, "not yours")
    with_pod(api, "Pending")
    held(api)
    with_claims(api, "Bound", "Bound")
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
        assert (await anext(watch)).phase is Phase.PENDING
        waiting = asyncio.ensure_future(anext(watch))
        while not api.count("PATCH"):
            await asyncio.sleep(0.01)
        with_pod(api, "Running", RUNNING)
        while (await waiting).phase is not Phase.RUNNING:
            waiting = asyncio.ensure_future(anext(watch))
    assert woken(api) == []


async def test_the_pod_of_a_transfer_is_helped_too(api, backend) -> None:
    with_claims(api, "Bound", "Bound")
    with_pod(api, "Pending", name=TRANSFER.name)
    pod = api.objects.pop(("pods", f"{TRANSFER.name}-x"))
    pod["metadata"]["name"] = TRANSFER.name
    api.put("pods", pod)
    held(api, TRANSFER.name)
    with pytest.raises(TransferNotReady, match="unbound immediate"):
        await backend.open_transfer(TRANSFER)
    assert woken(api) == [CLAIMS[-1]]
