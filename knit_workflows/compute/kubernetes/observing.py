"""From a pod, its Job and their events to what the contract calls an observation; pure.

The user's container tells whether the pod has started. The pod has ended well as soon as every
container has ended with 0, the nurse too, so the log is complete; the kubelet takes a second more
to call the pod `Succeeded`. It has failed when Kubernetes says so: only then the reasons of an
eviction are written down, and nobody waits for a failure.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.manifests import MAIN, NURSE
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
from knit_workflows.domain.runs import LOST, STUCK_CODE, SUCCEEDED, Exit

ABSENT: Final = Observation(Phase.ABSENT)
_ORDER: Final = {
    Phase.PENDING: 0,
    Phase.RUNNING: 1,
    Phase.SUCCEEDED: 2,
    Phase.FAILED: 2,
    Phase.ABSENT: 3,
}


def is_news(last: Observation | None, present: Observation) -> bool:
    """Says whether a watcher who knows `last` wants to hear of `present`.

    A pod only goes forward. What seems to go back is its removal: an ended pod looks like one
    taken away then, and a Job that has just lost its pod like one that never had any.
    """
    if last is None or last.phase is Phase.ABSENT:
        return present != last
    if present.phase is last.phase:
        return present != last and last.exit is None
    return _ORDER[present.phase] > _ORDER[last.phase]


def slim(pod: JsonObject) -> JsonObject:
    """Gives the part of a pod that observing reads; a tenth of what the API server sends."""
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


def foremost(pods: Sequence[JsonObject]) -> JsonObject:
    """Gives the pod that counts among those of one Job.

    The Job controller may, against all odds, have made two: what may still be writing counts, then
    what was made last.
    """

    def rank(pod: JsonObject) -> tuple[bool, str]:
        return (not _ended(pod), pod["metadata"].get("creationTimestamp", ""))

    return max(pods, key=rank)


def observe_pod(pod: JsonObject, warnings: Sequence[WarningEvent], now: datetime) -> Observation:
    """Says how a run pod is."""
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
    """Says how a run pod is whose Job has no pod."""
    if job is None:
        return ABSENT
    status = job.get("status", {})
    counts = ("succeeded", "failed", "terminating")
    uncounted = status.get("uncountedTerminatedPods") or {}
    had_pods = any(status.get(count) or uncounted.get(count) for count in counts)
    if had_pods or condition_is(job, "Failed") or condition_is(job, "Complete"):
        return ABSENT  # its pod was there and has been removed
    if being_deleted(job):
        # Its controller may be creating the pod at this moment: not absent before it is gone.
        about = StartFailure(StartFailureKind.TRANSIENT, "Deleting", "the Job is being deleted")
        return Observation(Phase.PENDING, start_failure=about)
    return Observation(Phase.PENDING, start_failure=start_failure_of_job(warnings))


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
    """Gives what the nurse says of the outputs, a line each; what it says when it fails is none."""
    terminated = _status_of(pod, NURSE).get("state", {}).get("terminated") or {}
    if terminated.get("exitCode") != 0:
        return ()
    return tuple(filter(None, (terminated.get("message") or "").splitlines()))


def _finished_at(container: JsonObject) -> datetime | None:
    terminated = container.get("state", {}).get("terminated") or {}
    finished = instant(terminated.get("finishedAt"))
    return finished if finished is not None and finished.year > 1970 else None


def _exit(pod: JsonObject) -> Exit:
    """Gives how an ended pod ended.

    Code: the largest of the normal containers', else that of a failed init container, else 254 for
    a pod taken away and 255 for one that the node refused or dropped.
    """
    failed = _failures(pod, "containerStatuses") or _failures(pod, "initContainerStatuses")
    taken = _taken_away(pod)
    dropped = _pod_reason(pod)
    if taken is None and dropped is None and not failed:
        if pod["status"]["phase"] != "Failed":
            return SUCCEEDED
        dropped = "failed, and Kubernetes gives no reason"
    parts = [_words(name, terminated) for name, terminated in failed]
    if failed and failed[0][0] != MAIN and _exit_code(_status_of(pod, MAIN)) == 0:
        parts.append(f"(container {MAIN}) itself ended well")
    about_pod = dropped or taken
    if about_pod is not None:
        parts.insert(0, f"(pod {pod['metadata']['name']}) {about_pod}")
    gone = STUCK_CODE if taken is None else LOST.code
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


def _words(name: str, terminated: JsonObject) -> str:
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
    """Gives why the node refused or dropped the pod (Evicted, OutOfcpu, NodeAffinity …)."""
    status = pod["status"]
    reason, message = status.get("reason"), status.get("message") or ""
    if status["phase"] != "Failed" or not reason:
        return None
    return f"{reason}: {message}" if message else str(reason)


def _taken_away(pod: JsonObject) -> str | None:
    """Gives how the pod was deleted while it worked, or None if it was not.

    A program that ends with 0 on SIGTERM was interrupted all the same: its outputs are not what
    its Plan promises. The instants are whole seconds of two clocks, so what is not clearly a
    deletion after the end counts as an interruption: an ended pod has a grace period of 0.
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
