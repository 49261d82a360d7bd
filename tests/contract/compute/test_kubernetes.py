"""What only a cluster can do to a run pod, on a real node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from knit_workflows.compute.base import Observation, Phase, StartFailureKind, TransferMode
from knit_workflows.domain.plans.model import NodeMode, NodeRule
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter
from tests.contract.compute.pods import INPUT, OUTPUT, Pods
from tests.contract.compute.test_transfers_and_restarts import opened

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

OBEDIENT = ("trap 'exit 0' TERM", "while true; do sleep 0.1; done")


@pytest.fixture(scope="module")
async def adapter() -> AsyncIterator[KubernetesAdapter]:
    """The back-end in a namespace that enforces the baseline standard."""
    async with kubernetes_adapter() as adapter:
        yield adapter


@asynccontextmanager
async def with_settings(**changed: object) -> AsyncIterator[Pods]:
    """Gives run pods of a back-end with other settings, in a namespace of its own."""
    async with kubernetes_adapter(**changed) as adapter, Pods(adapter) as pods:
        yield pods


def failing(kind: StartFailureKind) -> Callable[[Observation], bool]:
    return lambda seen: seen.start_failure is not None and seen.start_failure.kind is kind


async def test_no_node_is_told_and_waited_for(pods: Pods) -> None:
    pod = await pods.make("true")
    pod = replace(pod, on_node=(NodeRule(NodeMode.MUST, "knit.test/none", "such"),))
    await pods.backend.launch(pod)
    seen = await pods.until(pod.name, failing(StartFailureKind.UNSCHEDULABLE))
    assert seen.start_failure is not None
    assert "affinity" in seen.start_failure.message


async def test_a_missing_service_account_is_told(pods: Pods) -> None:
    pod = replace(await pods.make("true"), service_account="nobody-made-it")
    await pods.backend.launch(pod)
    seen = await pods.until(pod.name, failing(StartFailureKind.UNSCHEDULABLE))
    assert seen.start_failure is not None
    assert "nobody-made-it" in seen.start_failure.message


async def test_a_mount_that_fails_is_told() -> None:
    async with with_settings(log_secret="nobody-made-it") as pods:
        pod = await pods.make("true")
        await pods.adapter.cluster.delete_secret("nobody-made-it")
        await pods.backend.launch(pod)
        seen = await pods.until(pod.name, failing(StartFailureKind.TRANSIENT))
        assert seen.start_failure is not None
        assert "nobody-made-it" in seen.start_failure.message


async def test_a_pod_deleted_by_hand_has_failed_even_if_it_obeys(pods: Pods) -> None:
    pod = await pods.launched(*OBEDIENT)
    await pods.running(pod.name)
    await pods.adapter.cluster.delete_pod(pod)
    end = await pods.ended(pod.name)
    assert end.phase in (Phase.FAILED, Phase.ABSENT)
    await pods.gone(pod.name)


async def test_whoever_drains_a_node_is_not_refused_because_of_transfers(pods: Pods) -> None:
    """`kubectl drain` refuses pods without a controller; this only asks what it would do."""
    reading = pods.transfer(await pods.volume({"a": b"one"}), TransferMode.READ)
    await opened(pods, reading)
    [node] = _kubectl(pods, "get", "nodes", "-o", "name").split()
    mine = f"--pod-selector=app.kubernetes.io/instance={reading.name}"
    said = _kubectl(pods, "drain", node.removeprefix("node/"), "--dry-run=client", mine)
    assert f"evicting pod {pods.adapter.settings.kube_namespace}/{reading.name}" in said
    await pods.backend.close_transfer(reading)


def _kubectl(pods: Pods, *words: str) -> str:
    command = ["kubectl", f"--kubeconfig={pods.adapter.settings.kubeconfig}", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_the_restricted_standard_is_kept_by_all_pods() -> None:
    """And what one container wrote for its user alone, the next ones can read."""
    async with with_settings(restricted=True) as pods:
        volume = await pods.volume()
        writing = pods.transfer(volume, TransferMode.WRITE)
        await pods.adapter.send(await opened(pods, writing), writing, {"words": b"one\n"})
        await pods.backend.close_transfer(writing)
        pod = await pods.make("umask 077", f"cat {INPUT}/words > {OUTPUT}/copy", "echo said")
        pod = replace(pod, inputs=(replace(pod.inputs[0], volume=volume),))
        assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
        for source, expected in (
            (pod.outputs[0].volume, {"copy": b"one\n"}),
            (pod.log, {"log": b"said\n"}),
        ):
            assert source is not None
            reading = pods.transfer(source, TransferMode.READ)
            door = await opened(pods, reading)
            assert await pods.adapter.receive(door, reading) == expected


async def test_what_any_user_wrote_for_itself_can_be_read(pods: Pods) -> None:
    pod = await pods.make("umask 077", f"echo secret > {OUTPUT}/mine")
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    folder = await pods.adapter.cluster.folder(pod.outputs[0].volume)
    os.chown(folder / "mine", 12345, 12345)
    reading = pods.transfer(pod.outputs[0].volume, TransferMode.READ)
    assert await pods.adapter.receive(await opened(pods, reading), reading) == {"mine": b"secret\n"}
