"""Why a pending pod does not start, and which deadline applies to it; pure.

Sources: the waiting reasons of the kubelet (`pkg/kubelet/images/types.go`,
`pkg/kubelet/container/sync_result.go` of Kubernetes), the scheduler's PodScheduled condition, and
Warning events of mounts and sandboxes, which no field of a pod mentions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.objects import (
    JsonObject,
    condition,
    condition_is,
    created_at,
    instant,
)
from knit_workflows.compute.kubernetes.refusals import classify_refusal
from knit_workflows.compute.pull_errors import UNKNOWN, classify_pull_error

_PULL_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"}
)
_IMAGE_REASONS: Final = frozenset(
    {"InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed"}
)
_CREATE_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})

_UNFIT_IMAGE: Final = re.compile(
    r"run as root|runAsNonRoot|non-numeric user|no command specified|unable to find user"
    r"|unable to find group|no matching entries",
    re.IGNORECASE,
)
"""What the container runtime says of an image that can be pulled but not run."""

_TRANSIENT_EVENTS: Final = frozenset(
    {
        "FailedAttachVolume",
        "FailedCreatePodContainer",
        "FailedCreatePodSandBox",
        "FailedMapVolume",
        "FailedMount",
        "FailedPrepareDynamicResources",
        "FailedSync",
        "NetworkNotReady",
    }
)
"""Warnings that keep a pod from starting; all others (MissingClusterDNS …) are harmless."""
_COMBINED: Final = "(combined from similar events): "
"""What the cluster puts before the message of the eleventh similar event, and of all after it."""
_EVENT_TTL: Final = timedelta(minutes=4)
"""A mount is retried within 2 minutes, so an older warning is obsolete."""
_BINDING_GRACE: Final = timedelta(seconds=45)
"""How long it is normal that a claim is not bound yet."""


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """A Warning event about one object: the parts used here."""

    reason: str
    message: str
    seen: datetime | None


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
    return WarningEvent(
        reason=event.get("reason") or "Unknown",
        message=(event.get("message") or "").strip().removeprefix(_COMBINED),
        seen=max((each for each in seen if each is not None), default=None),
    )


def start_failure_of_pod(
    pod: JsonObject, warnings: Sequence[WarningEvent], now: datetime
) -> StartFailure | None:
    """Says what keeps a pending pod from starting; None if nothing is known to."""
    status = pod.get("status", {})
    statuses = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for container in statuses:
        waiting = container.get("state", {}).get("waiting")
        if waiting and (found := _from_waiting(container["name"], waiting, warnings)):
            return found
    if condition_is(pod, "PodScheduled", "False"):
        return _from_scheduling(pod, now)
    if condition_is(pod, "PodReadyToStartContainers"):
        return None  # volumes and network are ready: warnings about them are obsolete
    return _from_events(warnings, now)


def start_failure_of_job(warnings: Sequence[WarningEvent]) -> StartFailure | None:
    """Says why a Job has no pod: a quota, a missing service account, a rule of the cluster."""
    refused = _newest(w for w in warnings if w.reason == "FailedCreate")
    if refused is None:
        return None
    return classify_refusal(refused.message) or StartFailure(
        StartFailureKind.UNSCHEDULABLE, refused.reason, refused.message
    )


def _from_waiting(
    name: str, waiting: JsonObject, warnings: Sequence[WarningEvent]
) -> StartFailure | None:
    reason = waiting.get("reason") or ""
    message = waiting.get("message") or ""
    if reason in _PULL_REASONS:
        # Older kubelets do not repeat the cause during the back-off; their event has it.
        failed = _newest(w for w in warnings if w.reason == "Failed" and "pull" in w.message)
        if reason == "ImagePullBackOff" and ": " not in message and failed is not None:
            message = failed.message
        kind = _kind_of_pull(reason, message)
    elif reason in _IMAGE_REASONS:
        kind = StartFailureKind.IMAGE
    elif reason in _CREATE_REASONS:
        kind = (
            StartFailureKind.IMAGE if _UNFIT_IMAGE.search(message) else StartFailureKind.TRANSIENT
        )
    else:  # ContainerCreating, PodInitializing
        return None
    return StartFailure(kind, reason, f"(container {name}) {message or reason}")


def _kind_of_pull(reason: str, message: str) -> StartFailureKind:
    kind, meaning = classify_pull_error(message)
    says_nothing = meaning == UNKNOWN
    if says_nothing and reason not in ("ErrImagePull", "ImagePullBackOff"):
        return StartFailureKind.TRANSIENT
    return kind


def _from_scheduling(pod: JsonObject, now: datetime) -> StartFailure | None:
    scheduled = condition(pod, "PodScheduled") or {}
    message = scheduled.get("message") or "no node takes the pod"
    created = created_at(pod)
    fresh = created is not None and now - created < _BINDING_GRACE
    if fresh and "unbound immediate PersistentVolumeClaims" in message:
        return None
    return StartFailure(
        StartFailureKind.UNSCHEDULABLE, scheduled.get("reason") or "Unschedulable", message
    )


def _from_events(warnings: Sequence[WarningEvent], now: datetime) -> StartFailure | None:
    newest = _newest(
        warned
        for warned in warnings
        if warned.reason in _TRANSIENT_EVENTS
        and (warned.seen is None or now - warned.seen < _EVENT_TTL)
    )
    if newest is None:
        return None
    return StartFailure(StartFailureKind.TRANSIENT, newest.reason, newest.message)


def _newest(warnings: Iterable[WarningEvent]) -> WarningEvent | None:
    return max(warnings, key=lambda w: w.seen.timestamp() if w.seen else 0.0, default=None)
