"""What a Plan asks of a cluster, on a real node: options, Kueue's way with Jobs, and dry runs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from knit_workflows import names
from knit_workflows.compute.base import Phase, StartFailureKind
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.expander import Expander
from knit_workflows.domain.plans.options import PodOptions, Spread, Toleration
from knit_workflows.domain.runs.run import SUCCEEDED
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter
from tests.contract.compute.pods import OTHER_OUTPUT, OUTPUT, Pods
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
async def adapter() -> AsyncIterator[KubernetesAdapter]:
    """The back-end in a namespace of its own."""
    async with kubernetes_adapter() as adapter:
        yield adapter


async def test_a_pod_has_all_that_it_asks_for(pods: Pods) -> None:
    """Through the API server's validation, on the node, and in the container."""
    options = PodOptions(
        labels={"team": "vision"},
        annotations={"example.com/note": "any: text"},
        tolerations=(Toleration("spot", "Exists", "", "NoExecute", 30),),
        image_pull_secrets=("nobody-made-it",),
        shm_size="130Mi",
        topology_spread=(Spread("kubernetes.io/hostname", 1, "ScheduleAnyway"),),
    )
    pod = await pods.make(f"df -k /dev/shm | tail -1 > {OUTPUT}/shm")
    pod = replace(pod, options=options)
    assert (await pods.ran(pod)).exit == SUCCEEDED
    assert str(130 * 1024) in (await pods.output(pod, "shm")).split()
    [seen] = await pods.adapter.cluster.pods_of(pod)
    assert seen.metadata.labels["team"] == "vision"
    assert seen.metadata.annotations["example.com/note"] == "any: text"
    assert "spot" in [one.key for one in seen.spec.tolerations]
    [spread] = seen.spec.topology_spread_constraints
    assert spread.label_selector.match_labels == {"knit/worker.plan": pod.plan_id}
    # Read back from the Job and the claim, as a worker does that finds them made already.
    assert (await pods.backend.launch(pod)).options == options
    asked = await pods.backend.create_volume(pod.outputs[0].volume)
    assert asked.storage_class
    assert (asked.access_mode, asked.size) == ("ReadWriteMany", "1Gi"), asked


async def test_a_job_waits_in_a_queue_until_it_is_resumed(pods: Pods) -> None:
    pod = replace(await pods.make("true"), options=PodOptions(queue="team-a"))
    await pods.backend.launch(pod)
    seen = await pods.until(pod.name, lambda now: now.start_failure is not None)
    assert seen.phase is Phase.PENDING
    assert seen.start_failure is not None
    assert (seen.start_failure.kind, seen.start_failure.reason) == (
        StartFailureKind.UNSCHEDULABLE, "JobSuspended",
    )  # fmt: skip
    assert "team-a" in seen.start_failure.message
    assert await pods.adapter.cluster.pods_of(pod) == []
    await pods.adapter.cluster.suspend(pod, suspended=False)
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED


async def test_a_job_that_is_suspended_after_its_start_has_failed(pods: Pods) -> None:
    """As when Kueue makes room for others: it is not run twice, however obedient it is."""
    pod = await pods.make("trap 'exit 0' TERM", "while true; do sleep 0.1; done")
    pod = replace(pod, options=PodOptions(queue="team-a"))
    await pods.backend.launch(pod)
    await pods.adapter.cluster.suspend(pod, suspended=False)
    await pods.running(pod.name)
    await pods.adapter.cluster.suspend(pod, suspended=True)
    assert (await pods.ended(pod.name)).phase in (Phase.FAILED, Phase.ABSENT)


async def test_a_trial_says_what_the_cluster_says(pods: Pods) -> None:
    """Admission of the pod too, which nobody sees when the Job is created."""
    pod = await pods.make("true", memory="100000000001m")
    trial = await pods.backend.try_launch(pod)
    assert trial.refusals == ()
    assert any("fractional byte value" in one for one in trial.warnings)
    for changed, words in (
        ({"service_account": "nobody-made-it"}, "nobody-made-it"),
        ({"options": PodOptions(priority_class="nobody-made-it")}, "no PriorityClass"),
        ({"options": PodOptions(runtime_class="nobody-made-it")}, "RuntimeClass"),
        ({"log": replace(pod.log, options=VolumeOptions(storage_class="no" * 200))}, "the claim"),
        ({"log": replace(pod.log, options=VolumeOptions("not-made"))}, "no StorageClass not-made"),
    ):
        trial = await pods.backend.try_launch(replace(pod, **changed))
        assert any(words in one for one in trial.refusals), trial
    assert await pods.backend.run_pods() == []


async def test_a_full_quota_is_a_warning() -> None:
    async with kubernetes_adapter() as adapter, Pods(adapter) as pods:
        pod = await pods.make("true", log=False)
        await adapter.cluster.limit_pods({"pods": "0", "persistentvolumeclaims": "1"})
        trial = await pods.backend.try_launch(pod)
        while not trial.warnings:  # the quota controller has not seen it yet
            await asyncio.sleep(0.2)
            trial = await pods.backend.try_launch(pod)
        assert trial.refusals == ()
        assert any("would have to wait" in one for one in trial.warnings)


async def test_a_claim_that_runs_full_requests_more(pods: Pods) -> None:
    """Nothing here carries expansions out; where the class does not allow them, that is told."""
    settings = pods.adapter.backend._settings
    server = ApiServer(settings)
    await server.open()
    expander = Expander(server, settings)
    plain = await pods.volume()
    async with pods.adapter.cluster.expandable_class() as storage_class:
        knit_id = str(uuid.uuid4())
        options = VolumeOptions(storage_class=storage_class, size="1Gi")
        volume = Volume(names.volume(knit_id), knit_id, options)
        await pods.backend.create_volume(volume)
        while (await pods.adapter.cluster.requested(volume))[0] != "Bound":
            await asyncio.sleep(0.1)
        assert await expander.expand(volume.name, 100) is True  # less than the margin is left
        assert (await pods.adapter.cluster.requested(volume))[1] == "7G"
        assert await expander.expand(volume.name, 100) is False
        await pods.backend.delete_volume(volume)
    assert await expander.expand(plain.name, 1 << 30) is False
    assert "# HELP" in await server.node_metrics(await pods.adapter.cluster.node())
    assert await expander.look() == []
    await server.aclose()


async def test_volumes_are_made_as_their_plan_says_in_both_binding_modes(
    pods: Pods, tmp_path: Path
) -> None:
    """At once, or when the pod needs them; deleted, they are gone from the disk."""
    cluster, kubeconfig = pods.adapter.cluster, pods.adapter.backend._settings.kubeconfig
    tmp_path.chmod(0o755)
    async with cluster.waiting_class(kubeconfig, tmp_path) as waiting:
        made = []
        for path, options in (
            (OUTPUT, VolumeOptions(waiting, "ReadWriteOnce", "2Mi")),
            (OTHER_OUTPUT, VolumeOptions(size="3Mi")),
        ):
            knit_id = str(uuid.uuid4())
            made.append(Mount(path, Volume(names.volume(knit_id), knit_id, options)))
            await pods.backend.create_volume(made[-1].volume)
        assert (await cluster.requested(made[0].volume))[0] == "Pending"
        pod = await pods.make(f"echo one > {OUTPUT}/file", f"echo two > {OTHER_OUTPUT}/file")
        assert (await pods.ran(replace(pod, outputs=tuple(made)))).exit == SUCCEEDED
        assert await pods.file(made[0].volume, "file") == "one\n"
        assert await pods.file(made[1].volume, "file") == "two\n"
        assert [await cluster.requested(one.volume) for one in made] == [
            ("Bound", "2Mi"), ("Bound", "3Mi"),
        ]  # fmt: skip
        folders = [await cluster.folder(one.volume) for one in made]
        await pods.backend.release(pod.name)
        for mount in made:
            await pods.backend.delete_volume(mount.volume)
        await until(lambda: not any(folder.exists() for folder in folders))
