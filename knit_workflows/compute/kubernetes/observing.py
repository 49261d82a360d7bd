"""Turns a pod, its Job and their events into the contract's observation; pure.

The user's container decides whether the pod has started. The pod has succeeded once every container
has exited with 0, the log sidecar included, so the log is complete; the kubelet takes a second more
to call the pod `Succeeded`. It has failed when Kubernetes says so: only then are the reasons of an
eviction recorded.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.manifests import LOG_SIDECAR, MAIN
from knit_workflows.compute.kubernetes.objects import (
    JsonObject,
    being_deleted,
    condition,
    condition_is,
    instant,
)
from knit_workflows.compute.kubernetes.start_failures import (
    WarningEvent,
    start_failure_of_job,
    start_failure_of_pod,
)
from knit_workflows.compute.kubernetes.suspension import observe_suspended
from knit_workflows.domain.runs import LOST, STUCK_CODE, SUCCEEDED, Exit

ABSENT: Final = Observation(Phase.ABSENT)
_ORDER: Final = {
    Phase.PENDING: 0,
    Phase.RUNNING: 1,
    Phase.SUCCEEDED: 2,
    Phase.FAILED: 2,
    Phase.ABSENT: 3,
}


def is_change(last: Observation | None, present: Observation) -> bool:
    """Says whether a watch that yielded `last` should yield `present`.

    A pod only moves forward. What looks like a step back is its removal: then an ended pod looks
    like one that was deleted, and a Job that has just lost its pod like one that never had any.
    """
    if last is None or last.phase is Phase.ABSENT:
        return present != last
    if present.phase is last.phase:
        return present != last and last.exit is None
    return _ORDER[present.phase] > _ORDER[last.phase]


def trim(pod: JsonObject) -> JsonObject:
    """Gives the part of a pod that is read here: a tenth of what the API server sends."""
    metadata = pod["metadata"]
    kept = (
        "name",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    )
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"containers": [{"name": one["name"]} for one in pod["spec"]["containers"]]},
        "status": pod.get("status", {}),
    }


def relevant_pod(pods: Sequence[JsonObject]) -> JsonObject:
    """Gives the pod that represents a Job.

    Rarely the Job controller creates two: one that may still be writing comes first, then the
    newest.
    """

    def rank(pod: JsonObject) -> tuple[bool, str]:
        return (not _ended(pod), pod["metadata"].get("creationTimestamp", ""))

    return max(pods, key=rank)


def observe_pod(pod: JsonObject, warnings: Sequence[WarningEvent], now: datetime) -> Observation:
    """Observes a run pod."""
    main = _status_of(pod, MAIN)
    digest = _digest(main)
    if _ended(pod):
        result = _exit(pod)
        phase = Phase.SUCCEEDED if result == SUCCEEDED else Phase.FAILED
        return Observation(
            phase,
            exit=result,
            image_digest=digest,
            ended_at=_finished_at(main),
            notes=_notes(pod),
        )
    state = main.get("state") or {}
    if "running" in state or "terminated" in state:
        return Observation(Phase.RUNNING, image_digest=digest)
    return Observation(
        Phase.PENDING, start_failure=start_failure_of_pod(pod, warnings, now), image_digest=digest
    )


def observe_job(job: JsonObject | None, warnings: Sequence[WarningEvent]) -> Observation:
    """Observes a Job without a pod."""
    if job is None:
        return ABSENT
    status = job.get("status", {})
    counts = ("succeeded", "failed", "terminating")
    uncounted = status.get("uncountedTerminatedPods") or {}
    had_pods = any(status.get(count) or uncounted.get(count) for count in counts)
    if had_pods or condition_is(job, "Failed") or condition_is(job, "Complete"):
        return ABSENT  # its pod existed and was removed
    if being_deleted(job):
        # Its controller may be creating the pod right now: only absent once the Job is gone.
        about = StartFailure(StartFailureKind.TRANSIENT, "Deleting", "the Job is being deleted")
        return Observation(Phase.PENDING, start_failure=about)
    return observe_suspended(job) or Observation(
        Phase.PENDING, start_failure=start_failure_of_job(warnings)
    )


def _ended(pod: JsonObject) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or _all_ended_well(pod)


def _all_ended_well(pod: JsonObject) -> bool:
    # A container may have no status yet while others have one.
    return all(_exit_code(_status_of(pod, one["name"])) == 0 for one in pod["spec"]["containers"])


def _statuses(pod: JsonObject, key: str = "containerStatuses") -> list[JsonObject]:
    return pod.get("status", {}).get(key) or []


def _status_of(pod: JsonObject, name: str) -> JsonObject:
    return next((each for each in _statuses(pod) if each["name"] == name), {})


def _digest(container: JsonObject) -> str | None:
    image_id: str = container.get("imageID") or ""
    return image_id.rpartition("@")[2].rpartition("://")[2] or None


def _notes(pod: JsonObject) -> tuple[str, ...]:
    """Gives the log sidecar's notes on the outputs, unless its message is about a failure."""
    terminated = _status_of(pod, LOG_SIDECAR).get("state", {}).get("terminated") or {}
    if terminated.get("exitCode") != 0:
        return ()
    return tuple(filter(None, (terminated.get("message") or "").splitlines()))


def _finished_at(container: JsonObject) -> datetime | None:
    terminated = container.get("state", {}).get("terminated") or {}
    finished = instant(terminated.get("finishedAt"))
    return finished if finished is not None and finished.year > 1970 else None


def _exit(pod: JsonObject) -> Exit:
    """Gives the exit of an ended pod.

    The code is the largest of the containers', else that of a failed init container, else 254 for a
    deleted pod and 255 for one that the node rejected or evicted.
    """
    failed = _failures(pod, "containerStatuses") or _failures(pod, "initContainerStatuses")
    deleted = _deletion(pod)
    evicted = _pod_reason(pod)
    if deleted is None and evicted is None and not failed:
        if pod["status"]["phase"] != "Failed":
            return SUCCEEDED
        evicted = "failed, and Kubernetes gives no reason"
    parts = [_text(name, terminated) for name, terminated in failed]
    if failed and failed[0][0] != MAIN and _exit_code(_status_of(pod, MAIN)) == 0:
        parts.append(f"(container {MAIN}) itself ended well")
    about_pod = evicted or deleted
    if about_pod is not None:
        parts.insert(0, f"(pod {pod['metadata']['name']}) {about_pod}")
    gone = STUCK_CODE if deleted is None else LOST.code
    code = failed[0][1]["exitCode"] if failed else gone
    # 256 would be cut to 0, which means success.
    return Exit(code if code & 0xFF else STUCK_CODE, "; ".join(parts))


def _failures(pod: JsonObject, key: str) -> list[tuple[str, JsonObject]]:
    """Gives (name, terminated state) of failed containers, the largest exit code first."""
    failed = [
        (each["name"], each["state"]["terminated"])
        for each in _statuses(pod, key)
        if _exit_code(each)
    ]
    return sorted(failed, key=lambda one: one[1]["exitCode"], reverse=True)


def _exit_code(container: JsonObject) -> int | None:
    terminated = container.get("state", {}).get("terminated")
    return terminated.get("exitCode", 0) if terminated else None


def _text(name: str, terminated: JsonObject) -> str:
    reason: str = terminated.get("reason") or "Error"
    number = terminated.get("signal") or terminated["exitCode"] - 128
    if reason == "Error" and (named := _signal_name(number)):
        reason = f"killed by signal {number} ({named})"
    message = " ".join((terminated.get("message") or "").split())
    return f"(container {name}) {reason}" + (f": {message}" if message else "")


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def _pod_reason(pod: JsonObject) -> str | None:
    """Gives why the node rejected or evicted the pod (Evicted, OutOfcpu, NodeAffinity …)."""
    status = pod["status"]
    reason, message = status.get("reason"), status.get("message") or ""
    if status["phase"] != "Failed" or not reason:
        return None
    return f"{reason}: {message}" if message else str(reason)


def _deletion(pod: JsonObject) -> str | None:
    """Gives how the pod was deleted while it ran, or None if it was not.

    A program that exits with 0 on SIGTERM was interrupted all the same: its outputs are incomplete.
    The instants are whole seconds of two clocks, so only what is clearly a deletion after the end
    is none: an ended pod has a grace period of 0.
    """
    metadata = pod["metadata"]
    expires = instant(metadata.get("deletionTimestamp"))
    if expires is None:
        return None
    grace = metadata.get("deletionGracePeriodSeconds") or 0
    finished = _finished_at(_status_of(pod, MAIN))
    if grace == 0 and finished is not None and finished < expires:
        return None
    disrupted = condition(pod, "DisruptionTarget")
    if disrupted is None:
        return "deleted while it was running"
    return f"{disrupted.get('reason')}: {disrupted.get('message')}"
