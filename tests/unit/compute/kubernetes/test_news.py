"""A reason is observed when the cluster knows it, not at the next look."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.compute.base import Phase
from knit_workflows.compute.kubernetes import KubernetesBackend
from tests.waiting import PATIENCE, until

from .test_backend import POD, with_pod

NEVER = timedelta(hours=1)


def event(kind: str, name: str, reason: str, message: str) -> dict:
    return {
        "metadata": {"name": f"{name}.{reason}"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": kind, "name": name},
    }


def with_claim(api) -> None:
    with_pod(api, "Pending")
    pod = api.objects["pods", f"{POD.name}-x"]
    pod["spec"]["volumes"] = [{"persistentVolumeClaim": {"claimName": "data-knitid-a"}}]
    api.put("pods", pod)


@pytest.mark.parametrize(
    ("about", "reason", "message", "words"),
    [
        (
            ("Job", POD.name),
            "FailedCreate",
            "forbidden: exceeded quota: q, requested: pods=1",
            "the quota q",
        ),
        (("Pod", f"{POD.name}-x"), "FailedMount", "no such server", "no such server"),
        (
            ("PersistentVolumeClaim", "data-knitid-a"),
            "ProvisioningFailed",
            "disk pool is empty",
            "its claim data-knitid-a: disk pool is empty",
        ),
    ],
)
async def test_an_event_wakes_the_watch(api, settings, about, reason, message, words):
    """Of the Job, of its pod, of a claim of its pod: no other look happens within the test."""
    backend = KubernetesBackend(
        settings.model_copy(update={"pending_resync_period": NEVER, "resync_period": NEVER})
    )
    await backend.open()
    await backend.launch(POD)
    if about[0] != "Job":
        with_claim(api)
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
        assert (await anext(watch)).start_failure is None
        await until(lambda: api.watches == 2)
        api.put("events", event(*about, reason, message))
        seen = await anext(watch)
        assert seen.phase is Phase.PENDING
        assert words in seen.start_failure.message
    await backend.aclose()
