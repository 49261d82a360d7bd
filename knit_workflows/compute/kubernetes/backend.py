"""The Kubernetes adapter of the compute contract: a Job per run pod, a claim per volume."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.backoff import Backoff
from knit_workflows.compute.base import (
    ENDED,
    MANY_RUNS,
    Endpoint,
    FoundVolume,
    Launch,
    Observation,
    Phase,
    RunLimits,
    RunPod,
    StartFailure,
    Transfer,
    Trial,
    WarmPool,
)
from knit_workflows.compute.kubernetes.api.informer import Informer
from knit_workflows.compute.kubernetes.api.objects import (
    JsonObject,
    being_deleted,
    created_at,
    now,
    version_of,
)
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.log_tokens import give_log_token
from knit_workflows.compute.kubernetes.pods import endings, observing
from knit_workflows.compute.kubernetes.pods.asking import Asking, Pace, Stall
from knit_workflows.compute.kubernetes.pods.looking import look_closer, read_warnings
from knit_workflows.compute.kubernetes.pods.stalled import claims_of, why_stalled
from knit_workflows.compute.kubernetes.pods.start_failures import (
    CLAIM,
    WarningEvent,
    about,
    read_warning,
)
from knit_workflows.compute.kubernetes.pods.suspension import SUSPENDED
from knit_workflows.compute.kubernetes.pods.timeline import pull_is_unknown, remember, with_pull
from knit_workflows.compute.kubernetes.pods.trimming import trim
from knit_workflows.compute.kubernetes.pods.waking import is_held_unbound, wake_scheduler
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.compute.kubernetes.specs.manifests import LABEL_INSTANCE
from knit_workflows.compute.kubernetes.specs.options import options_in, options_of
from knit_workflows.compute.kubernetes.specs.rights import prerequisites
from knit_workflows.compute.kubernetes.transfers import TransferPods
from knit_workflows.compute.kubernetes.trials import try_launch
from knit_workflows.compute.kubernetes.volumes import Volumes
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, QuotaExceeded
from knit_workflows.domain.volumes import Volume, VolumeOptions
from knit_workflows.settings import KubernetesSettings

_EVENTS_AFTER: Final = timedelta(seconds=3)
"""Events of a younger pod are not read; nearly all pods have started by then."""
_LOOKS_A_SECOND: Final = 4.0
_LOOKS_AT_ONCE: Final = 100
"""How often watches look at what a pending pod waits for; see `Pace`."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """An observation, and the resourceVersion and the name of the pod it is of.

    `changes_soon`: time alone will change it, because containers of others keep an ended pod.
    `told_of` are the objects, as `Kind/name`, whose warnings tell why the pod does not start.
    `job` is there while it waits for its first pod. `unbound` are the claims for which the
    scheduler holds it back.
    """

    observation: Observation
    version: int
    pod: str = ""
    changes_soon: bool = False
    told_of: tuple[str, ...] = ()
    job: JsonObject | None = None
    unbound: tuple[str, ...] = ()

    @property
    def phase(self) -> Phase:
        """The phase that was observed."""
        return self.observation.phase


class KubernetesBackend:
    """Implements `ComputeBackend` in one namespace of a cluster."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._server = ApiServer(settings)
        self._volumes = Volumes(self._server, settings)
        self._transfers = TransferPods(self._server, settings)
        self._looks = Pace(_LOOKS_A_SECOND, _LOOKS_AT_ONCE)
        self._pods: Informer[JsonObject] = Informer(
            self._server,
            "Pod",
            {"labelSelector": names.LABEL_RUN},
            key=lambda pod: pod["metadata"]["labels"].get(LABEL_INSTANCE, ""),
            read=self._read_pod,
        )
        self._warnings: Informer[WarningEvent] = Informer(
            self._server,
            "Event",
            {"fieldSelector": "type=Warning"},
            key=lambda event: read_warning(event).about,
            read=read_warning,
        )

    def suggested_runs(self) -> RunLimits:
        """Gives enough to keep the cluster's scheduler busy."""
        return RunLimits.always(MANY_RUNS)

    def is_at_hand(self) -> bool:
        """Says no: the API server has to answer."""
        return False

    def warm_pool(self) -> WarmPool:
        """Gives as many as the settings say, of their class and capacity."""
        its = self._settings
        kind = f"{its.kube_namespace}/{its.storage_class or ''}/{its.initial_capacity}"
        return WarmPool(its.warm_transfers, kind)

    async def open(self) -> None:
        """Loads the credentials; the watches start with the first `watch`."""
        await self._server.open()

    async def aclose(self) -> None:
        """Ends the watches and closes connections; what runs goes on running."""
        await self._pods.aclose()
        await self._warnings.aclose()
        await self._server.aclose()

    async def ensure_prerequisites(self) -> None:
        """Creates what Runs need in the namespace, where it is missing."""
        for manifest in prerequisites(self._settings):
            await self._server.create(manifest["kind"], manifest)

    async def require_room(self) -> None:
        """Does nothing: storage classes do not say how much space is left."""

    async def create_volume(self, volume: Volume) -> VolumeOptions:
        """Creates a claim; it need not be bound when this returns."""
        return await self._volumes.create(volume)

    async def delete_volume(self, volume: Volume) -> None:
        """Removes a claim; gone already is fine."""
        await self._volumes.delete(volume)

    async def missing_volumes(self, volumes: Sequence[Volume]) -> list[Volume]:
        """Asks for each claim: one that is being deleted is missing, and so is one without its
        volume."""
        return await self._volumes.missing(volumes)

    async def adoptable(self, name: str) -> str:
        """Takes a claim of knit's namespace that pods may mount; see `adopted_claims`."""
        return await self._volumes.adoptable(name)

    async def require_bound(self, volume: Volume, *, within: timedelta) -> None:
        """Waits until the importer's claim is bound."""
        await self._volumes.require_bound(volume, within)

    async def measure_volume(self, volume: Volume) -> int | None:
        """Gives the capacity of a bound claim, which is what the storage has set aside for it."""
        return await self._volumes.capacity(volume)

    async def launch(self, pod: RunPod) -> Launch:
        """Creates the Job; see the contract."""
        created = await self._server.request_creation("Job", manifests.run_job(pod, self._settings))
        if created is not None:
            await give_log_token(self._server, pod, created.body, self._settings)
            return Launch(created.warnings, options_of(pod, self._settings))
        job = await self._server.get("Job", pod.name)
        if job is None or being_deleted(job):
            raise BackendUnavailable(f"the Job {pod.name} is being deleted", see=pod.run_id)
        found = job["metadata"].get("labels") or {}
        mine = manifests.run_pod_labels(pod, self._settings)
        for label in (names.LABEL_RUN, names.LABEL_GENERATION):
            if found.get(label) != mine[label]:
                raise BackendRejected(f"the name {pod.name} belongs to another Job", see=pod.name)
        try:
            await give_log_token(self._server, pod, job, self._settings)
        except QuotaExceeded:
            # The quota may be full of what an earlier attempt made, which nobody here may look at:
            # a pod that has begun has it.
            if not await self._has_begun(pod.name):
                raise
        # Made by an earlier attempt, which earlier settings may have shaped.
        return Launch(options=options_in(job, pod))

    async def try_launch(self, pod: RunPod) -> Trial:
        """Has the API server check claims, Job and pod without creating them."""
        return await try_launch(pod, self._server, self._settings)

    async def observe(self, pod_name: str) -> Observation:
        """Says how the run pod is, from the API server."""
        return (await self._observe_now(pod_name)).observation

    async def watch(self, pod_name: str) -> AsyncIterator[Observation]:
        """Yields the present observation and each change; see the contract."""
        self._pods.start()
        self._warnings.start()
        clock = asyncio.get_running_loop().time
        last: Observation | None = None
        snapshot: _Snapshot | None = None
        its = self._settings
        asking = Asking.begun(clock(), usual=its.resync_period, pending=its.pending_resync_period)
        stall = Stall(its.stalled_after)
        unseen = Stall(its.pending_resync_period)
        with ExitStack() as stack:
            changed = stack.enter_context(self._pods.subscribe(pod_name))
            heard = {about("Job", pod_name)}
            stack.enter_context(self._warnings.subscribe(about("Job", pod_name), changed))
            while True:
                changed.clear()
                known = None if clock() >= asking.due else self._cached(pod_name, snapshot)
                if known is None:
                    known = await self._observe_with_retries(pod_name)
                    is_news = snapshot is None or snapshot.phase is not known.phase
                    asking.asked(clock(), is_news=is_news, has_pod=known.job is None)
                snapshot = known
                for thing in set(snapshot.told_of) - heard:
                    stack.enter_context(self._warnings.subscribe(thing, changed))
                    heard.add(thing)
                await self._wake_scheduler(snapshot, unseen)
                present = await self._with_reason(pod_name, snapshot, stall)
                if observing.is_change(last, present):
                    last = await self._with_pull(snapshot.pod, present)
                    yield last
                await _set_within(changed, self._interval(snapshot))

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Deletes pods and Job; `observe` says ABSENT once the kubelet has confirmed."""
        # With a grace period of 0 the pod would vanish while its process goes on.
        seconds = max(1, math.ceil(grace.total_seconds()))
        # Pods first: the garbage collector would use the grace period of their own spec.
        await self._server.delete_all("Pod", _selector(pod_name), {"gracePeriodSeconds": seconds})
        # Foreground: the Job stays until its pods are gone, even those that its controller is
        # just creating.
        await self._server.delete("Job", pod_name, {"propagationPolicy": "Foreground"})

    async def release(self, pod_name: str) -> None:
        """Deletes the Job of an ended pod, and the pod with it."""
        if not await self._server.delete("Job", pod_name, {"propagationPolicy": "Background"}):
            # Somebody may have removed the Job but not its pod.
            await self._server.delete_all("Pod", _selector(pod_name), {"gracePeriodSeconds": 1})

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Gives the address of a transfer pod; raises TransferNotReady until the agent responds."""
        return await self._transfers.open(transfer)

    async def close_transfer(self, transfer: Transfer) -> None:
        """Deletes a transfer pod; gone already is fine."""
        await self._transfers.close(transfer)

    async def own_volumes(self, *, with_origins: bool = False) -> AsyncGenerator[FoundVolume, None]:
        """Yields the claims of knit's; origins are annotations of theirs."""
        async with aclosing(self._volumes.found(with_origins=with_origins)) as found:
            async for one in found:
                yield one

    async def run_pods(self) -> list[str]:
        """Gives the names of all Jobs of knit."""
        jobs, _ = await self._server.list("Job", {"labelSelector": names.LABEL_RUN})
        return [job["metadata"]["name"] for job in jobs]

    def _read_pod(self, pod: JsonObject) -> JsonObject:
        """Gives what is kept of a pod that the watch shows, and when it reached its milestones."""
        kept = trim(pod)
        remember(kept, self._kept(pod), now())
        return kept

    def _kept(self, pod: JsonObject) -> JsonObject | None:
        """Gives what is kept of the same pod so far."""
        instance = pod["metadata"]["labels"].get(LABEL_INSTANCE, "")
        uid = pod["metadata"]["uid"]
        return next(
            (one for one in self._pods.get(instance) if one["metadata"]["uid"] == uid), None
        )

    def _interval(self, last: _Snapshot) -> float:
        """Gives the seconds until the next observation without a notification."""
        # Warnings and deadlines do not change the pod, and a stale watch does not notify.
        phase, failure = last.observation.phase, last.observation.start_failure
        if failure is not None and failure.reason == SUSPENDED:
            # It may be thousands that wait for Kueue; their pods are noticed when they are made.
            return self._settings.resync_period.total_seconds()
        soon = last.changes_soon or phase is Phase.PENDING
        soon = soon or (phase is not Phase.ABSENT and self._watch_is_stale)
        interval = self._settings.pending_resync_period if soon else self._settings.resync_period
        return interval.total_seconds()

    @property
    def _watch_is_stale(self) -> bool:
        return not self._pods.fresh

    def _cached(self, pod_name: str, last: _Snapshot | None) -> _Snapshot | None:
        """Observes the informers' caches; None if only the API server can tell."""
        pods = self._pods.get(pod_name)
        if self._watch_is_stale:
            return None
        if not pods:
            return self._waiting(pod_name, last.job) if last is not None else None
        pod = observing.relevant_pod(pods)
        if last is not None and version_of(pod) < last.version:
            return None  # the cache is older than what was read from the server
        if endings.needs_job(pod):
            return None
        warnings = [warned for thing in _told_of(pod) for warned in self._warnings.get(thing)]
        return self._snapshot(pod, warnings)

    def _waiting(self, pod_name: str, job: JsonObject | None) -> _Snapshot | None:
        """Observes a Job that waits for its first pod, with the warnings known; else None."""
        if job is None or being_deleted(job) or not self._warnings.fresh:
            return None
        seen = observing.observe_job(job, self._warnings.get(about("Job", pod_name)))
        return _Snapshot(seen, 0, job=job) if seen.phase is Phase.PENDING else None

    async def _with_reason(self, pod_name: str, seen: _Snapshot, stall: Stall) -> Observation:
        """Adds a reason to a pod that has been pending without one for a while."""
        observation = seen.observation
        if observation.phase is not Phase.PENDING or observation.start_failure is not None:
            stall.over()
            return observation
        clock = asyncio.get_running_loop().time()
        if stall.is_due(clock, seen.version) and self._looks.may(clock):
            stall.looked(clock)
            with suppress(BackendUnavailable):  # the watch itself reports that
                stall.reason = await self._why_stalled(pod_name)
        return replace(observation, start_failure=stall.reason)

    async def _wake_scheduler(self, seen: _Snapshot, unseen: Stall) -> None:
        """Wakes the scheduler, if claims for which it holds the pod back are bound all the same."""
        if not seen.unbound:
            unseen.over()
            return
        clock = asyncio.get_running_loop().time()
        if unseen.is_due(clock, seen.version) and self._looks.may(clock):
            unseen.looked(clock)
            with suppress(BackendUnavailable):  # the watch itself reports that
                await wake_scheduler(self._server, seen.unbound)

    async def _with_pull(self, pod: str, observation: Observation) -> Observation:
        """Adds, to a pod that has ended, when its image was there; asks only if that took long."""
        if observation.phase not in ENDED or not pull_is_unknown(observation.timeline):
            return observation
        about = f"reason=Pulled,involvedObject.kind=Pod,involvedObject.name={pod}"
        try:
            events, _ = await self._server.list("Event", {"fieldSelector": about})
        except BackendUnavailable:
            return observation  # it only explains
        return replace(observation, timeline=with_pull(observation.timeline, events))

    async def _why_stalled(self, pod_name: str) -> StartFailure:
        pods = self._pods.get(pod_name)
        if self._watch_is_stale:
            pods, _ = await self._server.list("Pod", {"labelSelector": _selector(pod_name)})
        if not pods:
            return why_stalled(None, {}, ())
        return await look_closer(self._server, observing.relevant_pod(pods))

    async def _observe_with_retries(self, pod_name: str) -> _Snapshot:
        """Asks the API server, and tolerates for a while that it is unreachable."""
        backoff = Backoff(0.5, 5.0)
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            try:
                return await self._observe_unseen(pod_name) or await self._observe_now(pod_name)
            except BackendUnavailable:
                if clock() - begun > self._settings.unavailable_after.total_seconds():
                    raise
            await asyncio.sleep(backoff.next())

    async def _observe_unseen(self, pod_name: str) -> _Snapshot | None:
        """Observes the Job of a pod that the watch has not seen; None if more must be looked at.

        That a pod is gone is never concluded from a watch, which may be late.
        """
        if self._watch_is_stale or self._pods.get(pod_name):
            return None
        job = await self._server.get("Job", pod_name)
        if job is not None and job.get("status", {}).get("active"):
            return None  # the watch should show it by now
        return self._waiting(pod_name, job)

    async def _has_begun(self, pod_name: str) -> bool:
        """Says whether a container of the Job's pod has started, so all that it mounts is there."""
        pods, _ = await self._server.list("Pod", {"labelSelector": _selector(pod_name)})
        return any(pod.get("status", {}).get("phase", "Pending") != "Pending" for pod in pods)

    async def _pods_now(self, pod_name: str) -> list[JsonObject]:
        """Asks for the pods of a Job: for the one that the watch shows, or else for a list.

        A list costs the API server as much as the namespace has pods, whatever it selects: of
        thousands of Runs that each ask for one, nothing else gets its turn. It is needed where
        there may be another pod: where none is known, and where the one that is known ends.
        """
        shown = [] if self._watch_is_stale else self._pods.get(pod_name)
        if len(shown) == 1:
            metadata = shown[0]["metadata"]
            pod = await self._server.get("Pod", metadata["name"])
            if (
                pod is not None
                and pod["metadata"]["uid"] == metadata["uid"]
                and not (endings.has_final_phase(pod) or being_deleted(pod))
            ):
                return [pod]
        pods, _ = await self._server.list("Pod", {"labelSelector": _selector(pod_name)})
        return pods

    async def _observe_now(self, pod_name: str) -> _Snapshot:
        pods = await self._pods_now(pod_name)
        if not pods:
            job = await self._server.get("Job", pod_name)
            warnings = await self._warnings_about((about("Job", pod_name),), job)
            return _Snapshot(observing.observe_job(job, warnings), 0)
        pod = observing.relevant_pod(pods)
        remember(pod, self._kept(pod), now())
        job = await self._server.get("Job", pod_name) if endings.needs_job(pod) else None
        snapshot = self._snapshot(pod, (), job)
        if snapshot.observation.phase is Phase.PENDING:
            warnings = await self._warnings_about(snapshot.told_of, pod)
            snapshot = self._snapshot(pod, warnings)
        return snapshot

    def _snapshot(
        self, pod: JsonObject, warnings: Sequence[WarningEvent], job: JsonObject | None = None
    ) -> _Snapshot:
        grace = self._settings.foreign_container_grace
        observation = observing.observe_pod(pod, warnings, now(), foreign_grace=grace, job=job)
        name, soon = pod["metadata"]["name"], endings.waits_for_others(pod)
        unbound = tuple(claims_of(pod)) if is_held_unbound(pod) else ()
        return _Snapshot(observation, version_of(pod), name, soon, _told_of(pod), unbound=unbound)

    async def _warnings_about(
        self, things: Sequence[str], waiting: JsonObject | None
    ) -> list[WarningEvent]:
        """Gives the warnings about things; asks the server only if `waiting` waits for a while."""
        if self._warnings.fresh:
            return [warned for thing in things for warned in self._warnings.get(thing)]
        if not _is_old(waiting):
            return []
        try:
            return await read_warnings(self._server, things)
        except BackendUnavailable:
            return []  # they only explain; the pod itself has been observed


def _told_of(pod: JsonObject) -> tuple[str, ...]:
    claims = (about(CLAIM, name) for name in claims_of(pod))
    return (about("Pod", pod["metadata"]["name"]), *claims)


def _selector(pod_name: str) -> str:
    # The second term protects the objects of others: charts use the first label, too.
    return f"{LABEL_INSTANCE}={pod_name},{names.LABEL_RUN}"


def _is_old(thing: JsonObject | None) -> bool:
    created = created_at(thing) if thing is not None else None
    return created is not None and now() - created > _EVENTS_AFTER


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
