"""The Kubernetes adapter of the compute contract: a Job per run pod, a claim per volume."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.compute.base import (
    MANY_RUNS,
    Endpoint,
    Observation,
    Phase,
    RunPod,
    RunsAtOnce,
    Transfer,
    Trouble,
    Volume,
)
from knit_workflows.compute.kubernetes import manifests, observing
from knit_workflows.compute.kubernetes.informer import Informer
from knit_workflows.compute.kubernetes.manifests import LABEL_INSTANCE
from knit_workflows.compute.kubernetes.objects import (
    JsonObject,
    being_deleted,
    created_at,
    now,
    version_of,
)
from knit_workflows.compute.kubernetes.server import ApiServer
from knit_workflows.compute.kubernetes.settings import KubernetesSettings
from knit_workflows.compute.kubernetes.silence import claims_of, why_silent
from knit_workflows.compute.kubernetes.transfers import Transfers
from knit_workflows.compute.kubernetes.troubles import Warned, read_warning
from knit_workflows.compute.kubernetes.volumes import Volumes
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable

_QUIET_START: Final = timedelta(seconds=3)
"""A pod younger than this is not asked for its events; nearly all have started by then."""
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """An observation, and the version of the pod it was made of."""

    observation: Observation
    version: int


@dataclass(slots=True)
class _Silence:
    """Since when a pod has been pending without a word, and what looking closer has told."""

    began: float | None = None
    asked: float = float("-inf")
    trouble: Trouble | None = None


class KubernetesBackend:
    """Implements `ComputeBackend` in one namespace of a cluster."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._server = ApiServer(settings)
        self._volumes = Volumes(self._server, settings)
        self._transfers = Transfers(self._server, settings)
        self._pods: Informer[JsonObject] = Informer(
            self._server,
            "Pod",
            {"labelSelector": names.LABEL_RUN},
            key=lambda pod: pod["metadata"]["labels"].get(LABEL_INSTANCE, ""),
            read=observing.slim,
        )
        self._warnings: Informer[Warned] = Informer(
            self._server,
            "Event",
            {"fieldSelector": "type=Warning"},
            key=lambda event: _about(
                event["involvedObject"].get("kind", ""), event["involvedObject"].get("name", "")
            ),
            read=read_warning,
        )

    def suggested_runs(self) -> RunsAtOnce:
        """Give what keeps a cluster's scheduler busy."""
        return RunsAtOnce.always(MANY_RUNS)

    async def open(self) -> None:
        """Load the credentials; the watches start with the first `watch`."""
        await self._server.open()

    async def aclose(self) -> None:
        """End the watches and close connections; what runs goes on running."""
        await self._pods.aclose()
        await self._warnings.aclose()
        await self._transfers.aclose()
        await self._server.aclose()

    async def ensure_prerequisites(self) -> None:
        """Create what the namespace must hold before a Run, where it is missing."""
        for manifest in manifests.prerequisites(self._settings):
            await self._server.create(manifest["kind"], manifest)

    async def require_room(self) -> None:
        """Say nothing: storage classes do not tell how much room they have."""

    async def create_volume(self, volume: Volume) -> None:
        """Create a claim. It need not be bound when this returns."""
        await self._volumes.create(volume)

    async def delete_volume(self, volume: Volume) -> None:
        """Remove a claim; gone already is fine."""
        await self._volumes.delete(volume)

    async def launch(self, pod: RunPod) -> None:
        """Create the Job; see the contract."""
        if await self._server.create("Job", manifests.run_job(pod, self._settings)) is not None:
            return
        job = await self._server.get("Job", pod.name)
        if job is None or being_deleted(job):
            raise BackendUnavailable(f"the Job {pod.name} is just being deleted", see=pod.run_id)
        found = job["metadata"].get("labels") or {}
        mine = manifests.run_pod_labels(pod, self._settings)
        for label in (names.LABEL_RUN, names.LABEL_GENERATION):
            if found.get(label) != mine[label]:
                raise BackendRejected(
                    f"the name {pod.name} is taken by a Job of something else", see=pod.name
                )

    async def observe(self, pod_name: str) -> Observation:
        """Say how the run pod is, from the API server."""
        return (await self._look(pod_name)).observation

    async def watch(self, pod_name: str) -> AsyncIterator[Observation]:
        """Yield each change of the run pod; see the contract."""
        self._pods.start()
        self._warnings.start()
        clock = asyncio.get_running_loop().time
        last: Observation | None = None
        source_at, version = float("-inf"), 0
        silence = _Silence()
        with self._pods.listen(pod_name) as changed:
            while True:
                changed.clear()
                seen = None
                if clock() - source_at < self._settings.reread.total_seconds():
                    seen = self._cached(pod_name, version)
                if seen is None:
                    seen = await self._look_patiently(pod_name)
                    source_at = clock()
                version = seen.version
                present = await self._explained(pod_name, seen.observation, silence)
                if observing.is_news(last, present):
                    last = present
                    yield last
                await _set_within(changed, self._interval(seen.observation))

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Delete pods and Job; `observe` says ABSENT once the kubelet has confirmed."""
        # A grace period of 0 would drop the pod from sight while its process goes on.
        seconds = max(1, math.ceil(grace.total_seconds()))
        # Pods first: the garbage collector would give them the grace period of their own spec.
        await self._server.delete_all("Pod", _selector(pod_name), {"gracePeriodSeconds": seconds})
        # Foreground: the Job stays until its pods are gone, those too that its controller is
        # creating at this moment.
        await self._server.delete("Job", pod_name, {"propagationPolicy": "Foreground"})

    async def release(self, pod_name: str) -> None:
        """Delete the Job of an ended pod, and the pod with it."""
        if not await self._server.delete("Job", pod_name, {"propagationPolicy": "Background"}):
            # Someone may have removed the Job and left its pod.
            await self._server.delete_all("Pod", _selector(pod_name), {"gracePeriodSeconds": 1})

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Give the address of a transfer pod; raises TransferNotReady until it answers."""
        return await self._transfers.open(transfer)

    async def close_transfer(self, transfer: Transfer) -> None:
        """Delete a transfer pod; gone already is fine."""
        await self._transfers.close(transfer)

    async def run_pods(self) -> list[str]:
        """Give the names of all Jobs of knit."""
        jobs, _ = await self._server.list("Job", {"labelSelector": names.LABEL_RUN})
        return [job["metadata"]["name"] for job in jobs]

    def _interval(self, last: Observation) -> float:
        """Give the seconds after which a pod is judged anew without a notification."""
        # Warnings, and the patience with claims, change nothing of the pod; and without a living
        # watch only looking helps.
        hasty = last.phase is Phase.PENDING or (last.phase is not Phase.ABSENT and self._deaf)
        interval = self._settings.pending_reread if hasty else self._settings.reread
        return interval.total_seconds()

    @property
    def _deaf(self) -> bool:
        return not self._pods.fresh

    def _cached(self, pod_name: str, version: int) -> _Seen | None:
        """Judge what the watch has told; None if only the API server can say."""
        pods = self._pods.get(pod_name)
        if self._deaf or not pods:
            return None
        pod = observing.foremost(pods)
        if version_of(pod) < version:
            return None  # the watch lags behind what we have read ourselves
        warnings = self._warnings.get(_about("Pod", pod["metadata"]["name"]))
        return _Seen(observing.observe_pod(pod, warnings, now()), version_of(pod))

    async def _explained(
        self, pod_name: str, observation: Observation, silence: _Silence
    ) -> Observation:
        """Give a pending pod of which nothing is known for a while what there is to say of it."""
        if observation.phase is not Phase.PENDING or observation.trouble is not None:
            silence.began = None
            return observation
        clock = asyncio.get_running_loop().time()
        if silence.began is None:
            silence.began, silence.asked, silence.trouble = clock, float("-inf"), None
        patience = self._settings.silent_after.total_seconds()
        if clock - silence.began >= patience and clock - silence.asked >= patience:
            silence.asked = clock
            with suppress(BackendUnavailable):  # the watch itself tells of that
                silence.trouble = await self._why_silent(pod_name)
        return replace(observation, trouble=silence.trouble)

    async def _why_silent(self, pod_name: str) -> Trouble:
        pods, _ = await self._server.list("Pod", {"labelSelector": _selector(pod_name)})
        if not pods:
            return why_silent(None, {}, ())
        pod = observing.foremost(pods)
        claims = {}
        for name in claims_of(pod):
            claim = await self._server.get("PersistentVolumeClaim", name)
            claims[name] = claim.get("status", {}).get("phase", "Pending") if claim else "missing"
        about = f"involvedObject.kind=Pod,involvedObject.name={pod['metadata']['name']}"
        events, _ = await self._server.list("Event", {"fieldSelector": about})
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return why_silent(pod, claims, events)

    async def _look_patiently(self, pod_name: str) -> _Seen:
        """Look, bearing for a while that the API server does not answer."""
        pause, begun = 0.5, asyncio.get_running_loop().time()
        while True:
            try:
                return await self._look(pod_name)
            except BackendUnavailable:
                silent = asyncio.get_running_loop().time() - begun
                if silent > self._settings.unavailable_after.total_seconds():
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _look(self, pod_name: str) -> _Seen:
        pods, _ = await self._server.list("Pod", {"labelSelector": _selector(pod_name)})
        if not pods:
            job = await self._server.get("Job", pod_name)
            warnings = await self._warnings_about("Job", pod_name) if _is_old(job) else []
            return _Seen(observing.observe_job(job, warnings), 0)
        pod = observing.foremost(pods)
        observation = observing.observe_pod(pod, (), now())
        if observation.phase is Phase.PENDING and _is_old(pod):
            warnings = await self._warnings_about("Pod", pod["metadata"]["name"])
            observation = observing.observe_pod(pod, warnings, now())
        return _Seen(observation, version_of(pod))

    async def _warnings_about(self, kind: str, name: str) -> list[Warned]:
        if self._warnings.fresh:
            return self._warnings.get(_about(kind, name))
        fields = f"type=Warning,involvedObject.kind={kind},involvedObject.name={name}"
        try:
            events, _ = await self._server.list("Event", {"fieldSelector": fields})
        except BackendUnavailable:
            return []  # they only explain; the pod itself has been seen
        return [read_warning(event) for event in events]


def _about(kind: str, name: str) -> str:
    return f"{kind}/{name}"


def _selector(pod_name: str) -> str:
    # The second term keeps other people's objects safe: charts use the first label, too.
    return f"{LABEL_INSTANCE}={pod_name},{names.LABEL_RUN}"


def _is_old(thing: JsonObject | None) -> bool:
    created = created_at(thing) if thing is not None else None
    return created is not None and now() - created > _QUIET_START


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
