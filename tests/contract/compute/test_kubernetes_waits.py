"""Quotas that pass, and endpoints that cannot open, on a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from knit_workflows.compute.base import Observation, Phase, RunPod, StartFailureKind, TransferMode
from knit_workflows.domain.errors import QuotaExceeded, TransferNotReady
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter
from tests.contract.compute.pods import Pods
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LIMITS = {"cpu": "200m", "memory": "100Mi"}


@pytest.fixture(scope="module")
async def adapter() -> AsyncIterator[KubernetesAdapter]:
    """The back-end in a namespace whose quota demands a cpu limit of every container."""
    async with kubernetes_adapter(
        program_limits=LIMITS,
        log_reader_limits=LIMITS,
        transfer_limits=LIMITS | {"memory": "256Mi"},
    ) as adapter:
        await adapter.cluster.set_quota("limits", **{"limits.cpu": "4", "limits.memory": "4Gi"})
        yield adapter


@asynccontextmanager
async def full(used: Pods, /, **hard: str) -> AsyncIterator[None]:
    """Lets a quota be used up while inside."""
    await used.adapter.cluster.set_quota("full", **hard)
    try:
        yield
    finally:
        await used.adapter.cluster.delete_quota("full")


async def launched(pods: Pods, pod: RunPod) -> None:
    """Launches as workers do, again and again: that a quota has gone is seen a moment later."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(QuotaExceeded):
                await pods.backend.launch(pod)
                return
            await asyncio.sleep(0.2)


def is_known(seen: Observation) -> bool:
    return seen.start_failure is not None


async def test_claims_and_jobs_wait_for_a_quota(pods: Pods) -> None:
    """What exists is found all the same, though the quota refuses to make it again."""
    pod = await pods.make("true")
    async with full(pods, persistentvolumeclaims="1", **{"count/jobs.batch": "0"}):
        with pytest.raises(QuotaExceeded, match="the quota full of the namespace is used up"):
            await pods.volume()
        await pods.backend.create_volume(pod.outputs[0].volume)
        with pytest.raises(QuotaExceeded, match=r"count/jobs\.batch=1"):
            await pods.backend.launch(pod)
    await launched(pods, pod)
    async with full(pods, **{"count/jobs.batch": "1"}):
        await pods.backend.launch(pod)
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED


async def test_pods_wait_for_a_quota_and_go_on_by_themselves(pods: Pods) -> None:
    """knit's own containers among them, of which the quota demands a cpu limit too."""
    pod = await pods.make("true")
    reading = pods.transfer(pod.inputs[0].volume, TransferMode.READ)
    async with full(pods, pods="0"):
        await pods.backend.launch(pod)
        seen = await pods.until(pod.name, is_known)
        with pytest.raises(QuotaExceeded, match="pods=1"):
            await pods.backend.open_transfer(reading)
    assert seen.start_failure is not None
    assert seen.start_failure.kind is StartFailureKind.UNSCHEDULABLE
    assert seen.start_failure.reason == "QuotaExceeded"
    assert seen.start_failure.message.startswith("the quota full of the namespace is used up: ")
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED


async def test_what_a_quota_demands_and_nobody_gives_is_refused(pods: Pods) -> None:
    pod = await pods.make("true")
    pod = replace(pod, resources={"memory": "64Mi"})
    await pods.backend.launch(pod)
    seen = await pods.until(pod.name, is_known)
    assert seen.start_failure is not None
    assert seen.start_failure.kind is StartFailureKind.REFUSED
    assert seen.start_failure.reason == "QuotaDemandsLimits"
    assert "must specify limits.cpu for: main" in seen.start_failure.message


async def test_a_claim_of_no_class_is_told_to_runs_and_transfers() -> None:
    """By the event of the claim: the pods themselves only say that it is not bound."""
    async with kubernetes_adapter(storage_class="no-such-class") as adapter, Pods(adapter) as pods:
        pod = await pods.make("true")
        reading = pods.transfer(pod.inputs[0].volume, TransferMode.READ)
        await pods.backend.launch(pod)
        seen = await pods.until(pod.name, is_known)
        assert seen.start_failure is not None
        assert seen.start_failure.reason == "ProvisioningFailed"
        assert "no-such-class" in seen.start_failure.message
        async with asyncio.timeout(PATIENCE):
            while True:
                with pytest.raises(TransferNotReady) as closed:
                    await pods.backend.open_transfer(reading)
                if "no-such-class" in closed.value.reason:
                    break
                await asyncio.sleep(0.5)
