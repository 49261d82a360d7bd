"""Why a pending pod does not start; pure.

Sources: the waiting reasons of the kubelet (`pkg/kubelet/images/types.go`,
`pkg/kubelet/container/sync_result.go` of Kubernetes), the scheduler's PodScheduled condition, and
Warning events of mounts, sandboxes and claims, which no field of a pod mentions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.api.objects import (
    JsonObject,
    condition,
    condition_is,
    created_at,
    instant,
)
from knit_workflows.compute.kubernetes.api.refusals import classify_refusal
from knit_workflows.compute.kubernetes.pods.waits import PULLS, WAITS, Source, known
from knit_workflows.compute.pull_errors import UNKNOWN, classify_pull_error

CLAIM: Final = "PersistentVolumeClaim"
_MAY_BE_UNFIT: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})
_UNFIT_IMAGE: Final = re.compile(
    r"run as root|runAsNonRoot|non-numeric user|no command specified|unable to find user"
    r"|unable to find group|no matching entries",
    re.IGNORECASE,
)
"""What the container runtime says of an image that can be pulled but not run."""
_COMBINED: Final = "(combined from similar events): "
"""What the cluster puts before the message of the eleventh similar event, and of all after it."""
_EVENT_TTL: Final = timedelta(minutes=11)
"""A mount is retried within 2 minutes, but a kubelet tells of one object only 25 times, then once
in five minutes (`defaultSpamBurst`, `defaultSpamQPS` of client-go): one of these may be missed."""
_CLAIM_TTL: Final = timedelta(minutes=15)
"""A provisioner tries again within 5 minutes, as the external ones do by default."""
_BINDING_GRACE: Final = timedelta(seconds=45)
"""How long it is normal that a claim is not bound yet."""
_ABOUT_CLAIMS: Final = re.compile(r"persistentvolume|volume node affinity|binding volumes", re.I)

_CLAIM_GONE: Final = re.compile(r'persistentvolumeclaim "([^"]+)" (?:not found|is being deleted)')
"""What the scheduler says of a claim that was there when the pod was made."""


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """A Warning event about one object: the parts used here.

    `about` is `Kind/name`, `container` the one that it tells of, if it does.
    """

    reason: str
    message: str
    seen: datetime | None
    about: str = ""
    container: str = ""


def read_warning(event: JsonObject) -> WarningEvent:
    """Reads a core/v1 Event; of its timestamps the newest counts."""
    series = event.get("series") or {}
    instants = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    seen = [instant(text) for text in instants if text]
    thing = event.get("involvedObject") or {}
    return WarningEvent(
        reason=event.get("reason") or "Unknown",
        message=(event.get("message") or "").strip().removeprefix(_COMBINED),
        seen=max((each for each in seen if each is not None), default=None),
        about=about(thing.get("kind", ""), thing.get("name", "")),
        # spec.initContainers{NAME}
        container=(thing.get("fieldPath") or "").rpartition("{")[2].removesuffix("}"),
    )


def about(kind: str, name: str) -> str:
    """Gives the key under which warnings about an object are found."""
    return f"{kind}/{name}"


def start_failure_of_pod(
    pod: JsonObject, warnings: Sequence[WarningEvent], now: datetime
) -> StartFailure | None:
    """Says what keeps a pending pod from starting; None if nothing is known to.

    `warnings` are those about the pod and about its claims.
    """
    status = pod.get("status", {})
    statuses = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for container in statuses:
        if found := _from_waiting(container, warnings):
            return found
    if not condition_is(pod, "PodScheduled") and (
        found := _from_claims(pod, warnings, now) or _from_scheduling(pod, now)
    ):
        return found
    if condition_is(pod, "PodReadyToStartContainers"):
        # Volumes and network are ready: warnings about them are obsolete.
        return _from_sidecars(statuses, warnings)
    return _from_events(warnings, now)


def start_failure_of_job(warnings: Sequence[WarningEvent]) -> StartFailure | None:
    """Says why a Job has no pod: a quota, a missing service account, a rule of the cluster."""
    refused = _newest(w for w in warnings if w.reason == "FailedCreate")
    if refused is None:
        return None
    return classify_refusal(refused.message) or StartFailure(
        StartFailureKind.UNSCHEDULABLE, refused.reason, refused.message
    )


def _from_waiting(container: JsonObject, warnings: Sequence[WarningEvent]) -> StartFailure | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason") or ""
    wait = known(reason, Source.CONTAINER)
    if wait is None:  # ContainerCreating, PodInitializing
        return None
    message, kind = waiting.get("message") or "", wait.kind
    if reason in PULLS:
        # Older kubelets do not repeat the cause during the back-off; their event has it.
        failed = _newest(w for w in warnings if w.reason == "Failed" and "pull" in w.message)
        if reason == "ImagePullBackOff" and ": " not in message and failed is not None:
            message = failed.message
        kind = _kind_of_pull(reason, message)
    elif reason in _MAY_BE_UNFIT and _UNFIT_IMAGE.search(message):
        kind = StartFailureKind.IMAGE
    elif ended := container.get("lastState", {}).get("terminated"):
        last = " ".join((ended.get("message") or ended.get("reason") or "").split())
        message = f"{message}; it ended last with {ended.get('exitCode')}: {last}"
    name = container["name"]
    return StartFailure(kind, reason, f"(container {name}) {message or f'{reason}: {wait.words}'}")


def _kind_of_pull(reason: str, message: str) -> StartFailureKind:
    kind, meaning = classify_pull_error(message)
    says_nothing = meaning == UNKNOWN
    if says_nothing and reason not in ("ErrImagePull", "ImagePullBackOff"):
        return StartFailureKind.TRANSIENT
    return kind


def _from_claims(
    pod: JsonObject, warnings: Sequence[WarningEvent], now: datetime
) -> StartFailure | None:
    """Says what keeps a claim of a pod without a node from being bound.

    A pod that the scheduler refuses for another reason does not wait for its claims.
    """
    scheduled = condition(pod, "PodScheduled")
    if scheduled is not None and not _ABOUT_CLAIMS.search(scheduled.get("message") or ""):
        return None
    newest = _newest(
        warned
        for warned in warnings
        if known(warned.reason, Source.CLAIM_EVENT)
        and warned.about.startswith(f"{CLAIM}/")
        and (warned.seen is None or now - warned.seen < _CLAIM_TTL)
    )
    if newest is None:
        return None
    name = newest.about.removeprefix(f"{CLAIM}/")
    return WAITS[newest.reason].failure(name=name, message=newest.message)


def _from_scheduling(pod: JsonObject, now: datetime) -> StartFailure | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return None
    message = scheduled.get("message") or WAITS["Unschedulable"].words
    created = created_at(pod)
    fresh = created is not None and now - created < _BINDING_GRACE
    if fresh and "unbound immediate PersistentVolumeClaims" in message:
        return None
    if gone := _CLAIM_GONE.search(message):
        return WAITS["ClaimGone"].failure(name=gone[1], message=message)
    return StartFailure(
        StartFailureKind.UNSCHEDULABLE, scheduled.get("reason") or "Unschedulable", message
    )


def _from_sidecars(
    statuses: Sequence[JsonObject], warnings: Sequence[WarningEvent]
) -> StartFailure | None:
    """Says which sidecar keeps the containers after it waiting because its probe fails."""
    for status in statuses:
        if "running" not in status.get("state", {}) or status.get("started", True):
            continue
        name = status["name"]
        unwell = _newest(w for w in warnings if w.reason == "Unhealthy" and w.container == name)
        if unwell is not None:
            return WAITS["SidecarNotStarted"].failure(name=name, message=unwell.message)
    return None


def _from_events(warnings: Sequence[WarningEvent], now: datetime) -> StartFailure | None:
    newest = _newest(
        warned
        for warned in warnings
        if known(warned.reason, Source.POD_EVENT)
        and (warned.seen is None or now - warned.seen < _EVENT_TTL)
    )
    if newest is None:
        return None
    return WAITS[newest.reason].failure(newest.message)


def _newest(warnings: Iterable[WarningEvent]) -> WarningEvent | None:
    return max(warnings, key=lambda w: w.seen.timestamp() if w.seen else 0.0, default=None)
