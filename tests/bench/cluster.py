"""What a Run costs on the real node, beside the same pods and claims made by hand."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio import client, config, watch

from knit_workflows import names
from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes import manifests
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import KubernetesSettings
from tests.bench.figures import figure, percentile
from tests.bench.stack import Stack, stack
from tests.contract.compute.kubernetes_adapter import kubernetes_adapter

COMMAND = ("sh", "-c", "echo made > /out/file")
DATASET = Tag("type", "dataset")


@asynccontextmanager
async def on_the_node(
    more: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[Stack, KubernetesSettings, str]]:
    """Gives a stack whose worker runs Plans in a fresh namespace, its settings, and an image."""
    async with kubernetes_adapter() as adapter:
        settings = adapter.settings
        environment = {
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(settings.kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": settings.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": settings.pod_image,
            **(more or {}),
        }
        async with stack(environment) as knit:
            for_inputs = _Volumes(knit, adapter.backend)
            knit.commit_data = for_inputs.commit  # type: ignore[method-assign]
            yield knit, settings, adapter.image


class _Volumes:
    """Commits Data whose volumes really exist, as those of uploads do."""

    def __init__(self, knit: Stack, backend: Any) -> None:
        self._commit = knit.commit_data
        self._backend = backend

    async def commit(self, *tags: Tag, knit_id: KnitId | None = None) -> KnitId:
        """Makes the volume, then commits the Data."""
        knit_id = knit_id or KnitId(str(uuid.uuid4()))
        await self._backend.create_volume(Volume(names.volume(knit_id), knit_id))
        await asyncio.sleep(0.5)  # an upload's claim has long been bound when it ends
        return await self._commit(*tags, knit_id=knit_id)


async def one_run(samples: int) -> None:
    """One Run, from the commit of its input to done; beside the same pod and claim by hand."""
    ours, bare = [], []
    async with on_the_node() as (knit, settings, image):
        plan_id = await knit.apply(_plan(image))
        by_hand = await ByHand.open(settings, image)
        for number in range(samples + 1):
            knit_id = await knit.commit_data(DATASET)
            begun = time.perf_counter()
            await knit.run_of(plan_id, knit_id)
            took = time.perf_counter() - begun
            beside = await by_hand.pods(1)
            if number:  # the first pair warms both up
                ours.append(took)
                bare.append(beside)
        await by_hand.aclose()
    ratio = percentile(ours, 0.5) / percentile(bare, 0.5)
    figure(
        "one Run on the real node",
        percentile(ours, 0.5),
        "s",
        "<= 1.15 x the baseline",
        baseline=round(percentile(bare, 0.5), 3),
        ratio=round(ratio, 2),
        baseline_is="the same pod (init container, main) and claim made by hand and watched",
        samples=samples,
    )


async def many_runs(count: int) -> None:
    """A Plan that finds so many Data; beside as many bare pods with claims created at once."""
    async with on_the_node() as (knit, settings, image):
        by_hand = await ByHand.open(settings, image)
        bare = await by_hand.pods(count)
        await by_hand.aclose()
        for _ in range(count):
            await knit.commit_data(DATASET)
        begun = time.perf_counter()
        await knit.apply(_plan(image))
        await knit.until_done(count)
        took = time.perf_counter() - begun
    figure(
        f"{count} Runs at once on the real node",
        took,
        "s",
        "<= 1.5 x the baseline",
        baseline=round(bare, 2),
        ratio=round(took / bare, 2),
        baseline_is=f"{count} of the same pods with claims made by hand at once",
    )


def _plan(image: str) -> dict[str, object]:
    return {
        "image": image,
        "entrypoint": list(COMMAND),
        "inputs": [{"path": "/in", "tags": [str(DATASET)]}],
        "outputs": [{"path": "/out", "tags": ["type:made"]}],
        "resources": {"cpu": "50m", "memory": "64Mi"},
    }


class ByHand:
    """Makes the pods that a Run's Job would make, and their claims, and watches them."""

    def __init__(self, api: Any, settings: KubernetesSettings, image: str) -> None:
        self._core = client.CoreV1Api(api)
        self._api = api
        self._settings = settings
        self._image = image

    @classmethod
    async def open(cls, settings: KubernetesSettings, image: str) -> ByHand:
        """Connects."""
        api = await config.new_client_from_config(str(settings.kubeconfig), persist_config=False)
        return cls(api, settings, image)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._api.close()

    async def pods(self, count: int) -> float:
        """Gives the seconds from the first request until all of so many pods have succeeded."""
        made = [self._pod() for _ in range(count)]
        for pod in made:  # inputs are there before, as a Run's are
            await self._claim(pod.inputs[0].volume)
        await asyncio.sleep(0.5)
        begun = time.perf_counter()
        ended = asyncio.create_task(self._until_ended({pod.name for pod in made}))
        await asyncio.gather(*(self._make(pod) for pod in made))
        await ended
        took = time.perf_counter() - begun
        for pod in made:
            await self._core.delete_namespaced_pod(
                pod.name, self._settings.kube_namespace, grace_period_seconds=0
            )
        return took

    async def _make(self, pod: RunPod) -> None:
        for mount in pod.outputs:
            await self._claim(mount.volume)
        template = manifests.run_job(pod, self._settings)["spec"]["template"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "labels": {"bench": "by-hand"}},
            "spec": template["spec"],
        }
        await self._core.create_namespaced_pod(self._settings.kube_namespace, body)

    async def _claim(self, volume: Volume) -> None:
        claim = manifests.volume_claim(volume, self._settings)
        await self._core.create_namespaced_persistent_volume_claim(
            self._settings.kube_namespace, claim
        )

    async def _until_ended(self, waited_for: set[str]) -> None:
        async with watch.Watch() as stream:
            async for event in stream.stream(
                self._core.list_namespaced_pod,
                self._settings.kube_namespace,
                label_selector="bench=by-hand",
            ):
                pod = event["object"]
                if pod.status.phase == "Succeeded":
                    waited_for.discard(pod.metadata.name)
                if not waited_for:
                    return

    def _pod(self) -> RunPod:
        run_id = str(uuid.uuid4())
        return RunPod(
            name=names.run_pod(run_id, 1),
            run_id=run_id,
            generation=1,
            plan_id=str(uuid.uuid4()),
            image=self._image,
            inputs=(Mount("/in", _volume()),),
            outputs=(Mount("/out", _volume()),),
            entrypoint=COMMAND,
            resources={"cpu": "50m", "memory": "64Mi"},
        )


def _volume() -> Volume:
    knit_id = str(uuid.uuid4())
    return Volume(names.volume(knit_id), knit_id)
