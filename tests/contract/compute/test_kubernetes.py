"""What only a cluster can do to a run pod, on a real node."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from knit_workflows.compute.base import (
    Observation,
    Phase,
    RunPod,
    StartFailureKind,
    Transfer,
    TransferMode,
    oom_note,
)
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.plans.model import NodeMode, NodeRule
from knit_workflows.domain.runs.run import SUCCEEDED, Exit
from knit_workflows.settings import KubernetesSettings
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
    seen = await pods.until(pod.name, failing(StartFailureKind.TRANSIENT))
    assert seen.start_failure is not None
    assert seen.start_failure.reason == "ServiceAccountMissing"
    assert "nobody-made-it" in seen.start_failure.message


async def test_a_mount_that_fails_is_told() -> None:
    """Of the Secret with the token for the log, of which knit says itself why it is not there."""
    async with with_settings(log_service_account="gone", supervise=False) as pods:
        pod = replace(await pods.make("true"), service_account="default")
        await pods.adapter.cluster.delete_account("gone")
        with pytest.raises(BackendUnavailable, match=r'gone: .*"gone" not found'):
            await pods.backend.launch(pod)
        seen = await pods.until(pod.name, failing(StartFailureKind.TRANSIENT))
        assert seen.start_failure is not None
        assert f"{pod.name}-log-token" in seen.start_failure.message


async def test_a_volume_whose_folder_is_here_is_read_without_a_pod(pods: Pods) -> None:
    pod = await pods.make(f"echo there > {OUTPUT}/x")
    await pods.ran(pod)
    await pods.backend.release(pod.name)
    volume = pod.outputs[0].volume
    folder = str(await pods.adapter.cluster.folder(volume))
    for name, words in (await pods.adapter.cluster.names_of(volume)).items():
        folder = folder.replace(name, words)
    backend = KubernetesBackend(pods.adapter.settings.model_copy(update={"volume_folders": folder}))
    await backend.open()
    reading = Transfer("read-at-hand", volume, TransferMode.READ, "t0ken", timedelta(minutes=1))
    endpoint = await backend.open_transfer(reading)
    assert endpoint.url.startswith("file:///")
    assert (Path(endpoint.url.removeprefix("file://")) / "x").read_text() == "there\n"
    await backend.close_transfer(reading)
    await backend.aclose()
    assert not [one for one in await pods.adapter.cluster.workload() if "read-at-hand" in one]


@asynccontextmanager
async def looked_at(pods: Pods, name: str) -> AsyncIterator[set[Phase]]:
    """Gives the phases that are seen, as often as the API server answers."""
    seen = set[Phase]()

    async def look() -> None:
        while True:
            seen.add((await pods.backend.observe(name)).phase)
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()


@pytest.mark.parametrize("how", ["delete_pod", "evict"])
async def test_a_pod_that_is_taken_away_is_never_done_even_if_it_obeys(
    pods: Pods, how: str
) -> None:
    """The kubelet lets go of it at another instant than the program ends at."""
    pod = await pods.launched(*OBEDIENT)
    await pods.running(pod.name)
    async with looked_at(pods, pod.name) as seen:
        await getattr(pods.adapter.cluster, how)(pod.run_id)
        end = await pods.ended(pod.name)
        assert end.phase in (Phase.FAILED, Phase.ABSENT)
        assert end.disruption
        await pods.gone(pod.name)
    assert Phase.SUCCEEDED not in seen
    # Whoever looks later sees no more than its Job.
    later = await pods.backend.observe(pod.name)
    assert later.disruption == "removed from its Job before its end was seen"


async def test_a_preempted_pod_says_so(pods: Pods) -> None:
    cluster = pods.adapter.cluster
    async with cluster.priority_class(-20) as low, cluster.priority_class(-10) as high:
        settings = pods.adapter.settings.model_copy(update={"priority_class": low})
        backend = KubernetesBackend(settings)
        await backend.open()
        pod = await pods.make(*OBEDIENT)
        await backend.launch(pod)
        await pods.running(pod.name)
        await cluster.create_rival(pod, pod.image, high)
        end = await pods.ended(pod.name)
        assert end.disruption.startswith("PreemptionByScheduler: ") or end.phase is Phase.ABSENT
        await backend.aclose()


def injected(pod: RunPod, settings: KubernetesSettings, *, native: bool) -> dict[str, Any]:
    """Gives the Job of a pod into which a webhook has put a container that goes on for ever."""
    job = manifests.run_job(pod, settings)
    spec = job["spec"]["template"]["spec"]
    script = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
    agent = {"name": "agent", "image": pod.image, "command": ["sh", "-c", script]}
    if native:
        spec.setdefault("initContainers", []).append(agent | {"restartPolicy": "Always"})
    else:
        spec["containers"].append(agent)
    return job


async def test_a_native_sidecar_changes_nothing(pods: Pods) -> None:
    """Neither while it still ends, which takes it its time, nor when it has ended with 143."""
    pod = await pods.make("true")
    await pods.adapter.cluster.run_job(injected(pod, pods.adapter.settings, native=True))
    end = await pods.ended(pod.name)
    assert (end.exit, end.notes, end.lingering) == (SUCCEEDED, (), False)
    async with asyncio.timeout(pods.adapter.patience.total_seconds()):
        while not await pods.adapter.cluster.has_succeeded(pod):
            assert (await pods.backend.observe(pod.name)).exit == SUCCEEDED
    assert await pods.backend.observe(pod.name) == end


async def test_an_ordinary_container_of_others_is_left_behind(pods: Pods) -> None:
    """After the end of the program, and of its log; then the pod can be removed."""
    short = {"foreign_container_grace": timedelta(seconds=1)}
    settings = pods.adapter.settings.model_copy(update=short)
    backend = KubernetesBackend(settings)
    await backend.open()
    pod = await pods.make("echo said", "exit 3")
    await pods.adapter.cluster.run_job(injected(pod, settings, native=False))
    end = await pods.ended(pod.name, backend)
    assert (end.exit, end.lingering) == (Exit(3, "(container main) Error"), True)
    assert end.notes == (
        "container agent, not of knit, did not end with the program: the pod is removed",
    )
    assert await pods.file(pod.log, "log") == "said\n"
    await backend.stop(pod.name, grace=timedelta(seconds=1))
    await pods.gone(pod.name)
    await backend.aclose()


async def test_a_child_that_is_killed_for_memory_is_noted(pods: Pods) -> None:
    """As the node's container runtime reports it: exit code 0, reason OOMKilled.

    It may hear of what the kernel did a moment later than of the end of a program that goes on
    for less.
    """
    pod = await pods.make("tail /dev/zero; sleep 3; exit 0", memory="32Mi")
    end = await pods.ran(pod)
    assert (end.phase, end.oom_killed, end.notes) == (Phase.SUCCEEDED, True, (oom_note(),))


async def test_what_the_server_warns_of_is_given(pods: Pods) -> None:
    pod = await pods.make("true")
    pod = replace(pod, resources={"cpu": "1", "memory": "64.5"})
    assert any(
        "fractional byte value" in text for text in (await pods.backend.launch(pod)).warnings
    )


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
            endpoint = await opened(pods, reading)
            assert await pods.adapter.receive(endpoint, reading) == expected


async def test_what_any_user_wrote_for_itself_can_be_read(pods: Pods) -> None:
    pod = await pods.make("umask 077", f"echo secret > {OUTPUT}/mine")
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    folder = await pods.adapter.cluster.folder(pod.outputs[0].volume)
    os.chown(folder / "mine", 12345, 12345)
    reading = pods.transfer(pod.outputs[0].volume, TransferMode.READ)
    assert await pods.adapter.receive(await opened(pods, reading), reading) == {"mine": b"secret\n"}
