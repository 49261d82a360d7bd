"""Pods and claims made by hand beside those of Runs, and when each pod came how far.

Everything is made at once and watched to its end by one watch, which also sees the pods of Runs:
the times of both come from one clock, as they become known.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from knit_workflows import names
from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.api.server import ApiServer, ResourceExpired
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import KubernetesSettings
from tests.bench.figures import percentile

Kind = Literal["bare", "same"]
"""`bare`: the user's container alone. `same`: all containers that a Run's pod has."""
STEPS = ("created", "scheduled", "started", "ended", "over")
"""How far a pod has come; `over`: it has succeeded, all containers included."""
_LABEL = "bench"


class Pods:
    """All pods of a namespace, and when each step of each was seen, in seconds since 1970."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._steps: dict[str, dict[str, float]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def of(cls, server: ApiServer) -> AsyncIterator[Pods]:
        """Watches while inside."""
        pods = cls(server)
        # If a pod fails, whoever waits is cancelled, and the failure is what is raised.
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(pods._follow())
            yield pods
            watching.cancel()

    async def until_over(self, labels: Mapping[str, str], count: int) -> list[dict[str, float]]:
        """Waits until so many pods with these labels are over; gives their steps."""
        while True:
            found = [
                self._steps[name]
                for name, own in self._labels.items()
                if labels.items() <= own.items() and "over" in self._steps[name]
            ]
            if len(found) >= count:
                return found
            self._changed.clear()
            await self._changed.wait()

    async def _follow(self) -> None:
        _, version = await self._server.list("Pod", {})
        while True:
            try:
                async for kind, pod in self._server.watch("Pod", {}, version):
                    version = pod["metadata"]["resourceVersion"]
                    if kind in ("ADDED", "MODIFIED"):
                        self._see(pod)
            except (BackendUnavailable, ResourceExpired):
                _, version = await self._server.list("Pod", {})

    def _see(self, pod: dict[str, Any]) -> None:
        now, name, status = time.time(), pod["metadata"]["name"], pod["status"]
        self._labels[name] = pod["metadata"].get("labels") or {}
        steps = self._steps.setdefault(name, {"created": now})
        assert status.get("phase") != "Failed", f"{name} failed: {status}"
        reached = {
            "scheduled": bool(pod["spec"].get("nodeName")),
            "over": status.get("phase") == "Succeeded",
        }
        for container in status.get("containerStatuses") or ():
            if container["name"] == manifests.MAIN:
                reached["started"] = bool({"running", "terminated"} & container["state"].keys())
                reached["ended"] = "terminated" in container["state"]
        for step, yes in reached.items():
            if yes:
                steps.setdefault(step, now)
        self._changed.set()


class ByHand:
    """Makes the pods that a Run's Job would make, and their claims."""

    def __init__(
        self, server: ApiServer, settings: KubernetesSettings, pods: Pods, pod: Callable[[], RunPod]
    ) -> None:
        """`pod` describes another one each time; inputs are there before, as a Run's are."""
        self._server = server
        self.settings = settings
        self._pods = pods
        self._pod = pod

    async def round(self, count: int, kind: Kind) -> tuple[float, list[dict[str, float]]]:
        """Gives the seconds from the first request until all are over, and the steps of each."""
        made = [self._pod() for _ in range(count)]
        for pod in made:
            for mount in pod.inputs:
                await self.volume(mount.volume)
        label = {_LABEL: uuid.uuid4().hex}
        begun = time.time()
        _, steps = await asyncio.gather(
            asyncio.gather(*(self._make(pod, kind, label) for pod in made)),
            self._pods.until_over(label, count),
        )
        took = max(each["over"] for each in steps) - begun
        for pod in made:
            await self._server.delete("Pod", pod.name, {"gracePeriodSeconds": 0})
        return took, steps

    async def volume(self, volume: Volume) -> None:
        """Makes a claim and waits until it is bound, as that of an upload has long been."""
        claim = manifests.volume_claim(volume, self.settings)
        await self._server.create("PersistentVolumeClaim", claim)
        while True:
            found = await self._server.get("PersistentVolumeClaim", volume.name)
            if found is not None and found["status"].get("phase") == "Bound":
                return
            await asyncio.sleep(0.05)

    async def _make(self, pod: RunPod, kind: Kind, label: Mapping[str, str]) -> None:
        *claims, body = objects_of(pod, kind, label, self.settings)
        await asyncio.gather(
            *(self._server.create("PersistentVolumeClaim", claim) for claim in claims)
        )
        await self._server.create("Pod", body)


def objects_of(
    pod: RunPod, kind: Kind, label: Mapping[str, str], settings: KubernetesSettings
) -> list[dict[str, Any]]:
    """Gives the manifests of the claims that a pod writes to, and its own as the last."""
    if kind == "bare":
        pod = replace(pod, log=None)
        settings = settings.model_copy(update={"supervise": False})  # no program in front of it
    outputs = [mount.volume for mount in pod.outputs]
    if pod.log is not None:
        outputs.append(pod.log)
    claims = [manifests.volume_claim(volume, settings) for volume in outputs]
    spec = manifests.run_job(pod, settings)["spec"]["template"]["spec"]
    if kind == "bare":
        del spec["initContainers"]
    about = {"name": pod.name, "labels": dict(label)}
    return [*claims, {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}]


def describer(
    image: str, command: Sequence[str], resources: Mapping[str, str], *, logged: bool
) -> Callable[[], RunPod]:
    """Gives a description of a pod with one input and one output, new names each time."""

    def pod() -> RunPod:
        run_id = str(uuid.uuid4())
        return RunPod(
            name=names.run_pod(run_id, 1),
            run_id=run_id,
            generation=1,
            plan_id=str(uuid.uuid4()),
            image=image,
            inputs=(Mount("/in", new_volume()),),
            outputs=(Mount("/out", new_volume()),),
            log=new_volume() if logged else None,
            entrypoint=tuple(command),
            resources=dict(resources),
        )

    return pod


def new_volume() -> Volume:
    """Gives a volume that does not exist yet."""
    knit_id = str(uuid.uuid4())
    return Volume(names.volume(knit_id), knit_id)


def between(steps: Sequence[Mapping[str, float]], order: Sequence[str]) -> dict[str, int]:
    """Gives the median milliseconds from each step to the next, by the name of the later one."""
    return {
        later: round(percentile([each[later] - each[earlier] for each in steps], 0.5) * 1000)
        for earlier, later in pairwise(order)
    }
