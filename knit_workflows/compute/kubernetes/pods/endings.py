"""How the pod of a Run ended: by itself and with what, or taken away; pure.

`main` decides, and the pod has ended once the log sidecar has, too, so that the log is complete; if
the sidecar fails or does not end, the log is noted to be incomplete. What an admission webhook has
added does not count: a native sidecar is told to end once they have ended, and how it obeys says
nothing about the Run; an ordinary container that goes on for ever is left behind, one that fails is
noted.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from knit_workflows.compute.base import oom_note
from knit_workflows.compute.kubernetes.api.objects import (
    JsonObject,
    being_deleted,
    condition,
    condition_is,
    instant,
)
from knit_workflows.compute.kubernetes.specs.run_containers import CHECK, LOG_SIDECAR, MAIN
from knit_workflows.domain.runs.run import LOST, STUCK_CODE, SUCCEEDED, Exit

_OWN: Final = frozenset({MAIN, LOG_SIDECAR})
_CLOCKS_AGREE_TO: Final = timedelta(seconds=60)
"""How far a node's clock may be from the control plane's, or from what a container says of its end:
what ended longer than this before its pod was taken away had ended by itself."""
_LONGEST_FLUSH: Final = timedelta(minutes=10)
"""How long the log sidecar may go on after `main`: more than a log ever took to reach its disk. It
waits for ever if `main` ended without having reached it: a wrapper that a webhook has put before
the command has failed, or `main` was killed in its first moment."""
_UNREACHED_CODE: Final = 128
_UNREACHED: Final = "knit's container "
"""With these, its exit code and how its message begins, `main` ends if it cannot reach the sidecar,
or if that goes away before it has let the command start (`pod/program/share.go`)."""
_GIVEN_UP_BY_NODE: Final = frozenset(
    ("NodeAffinity", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated")
) | {"UnexpectedAdmissionError"}
"""Reasons of pods that a node did not take, or gave up because it was shut down; and `OutOf…`."""
_FOUND_DEAD: Final = frozenset({"ContainerStatusUnknown", "Unknown"})
"""Reasons that kubelet and containerd give for what they find dead after a restart of the node."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a pod ended; `Observation` says what its fields mean."""

    exit: Exit
    notes: tuple[str, ...] = ()
    lingering: bool = False
    oom_killed: bool = False
    disruption: str = ""


@dataclass(frozen=True, slots=True)
class _TakenAway:
    """How a pod was taken away before it had ended; `disruption` is empty if that is to last."""

    how: str
    disruption: str


def needs_job(pod: JsonObject) -> bool:
    """Says whether its Job has to be looked at: somebody has deleted the pod, and not said why."""
    return has_final_phase(pod) and being_deleted(pod) and not _is_disruption_target(pod)


def ending(
    pod: JsonObject, now: datetime, foreign_grace: timedelta, job: JsonObject | None
) -> Ending | None:
    """Gives how a pod ended; None: it has not, or Kubernetes has yet to say how.

    The kubelet takes a second more to call a pod `Succeeded` than its containers to end well. A
    failure waits for the phase: only then are the reasons of an eviction on record.
    """
    if has_final_phase(pod):
        return _judged(pod, job)
    own = _own_statuses(pod)
    if being_deleted(pod) or _is_disruption_target(pod):
        return None
    if could_not_start(status_of(pod, MAIN)):
        if _has_program_in_front(pod) and not _has_begun(status_of(pod, LOG_SIDECAR)):
            return None  # its image may take a while: then it is there for the next pod
        why = _lacked_sidecar(pod)
        exit = _exit(pod, why or None, STUCK_CODE)
        return Ending(exit, _notes(pod), lingering=True, disruption=why)
    if not all(map(_terminated, own)):
        return _without_its_log(pod, now)
    others = _others_alive(pod)
    if not others:
        if any(map(exit_code, own)):
            return None
        return Ending(SUCCEEDED, _notes(pod), oom_killed=_is_oom_killed(pod))
    ended = [at for at in map(finished_at, own) if at is not None]
    if not ended or now - max(ended) < foreign_grace:
        return None
    left = f"{_containers(others)}, not of knit, did not end with the program: the pod is removed"
    exit = _exit(pod, None, STUCK_CODE)
    return Ending(exit, (*_notes(pod), left), lingering=True, oom_killed=_is_oom_killed(pod))


def _without_its_log(pod: JsonObject, now: datetime) -> Ending | None:
    """Gives the ending of a pod whose log sidecar goes on for too long after `main`."""
    ended = finished_at(status_of(pod, MAIN))
    if ended is None or now - ended < _LONGEST_FLUSH:
        return None
    verb = "end" if _has_begun(status_of(pod, LOG_SIDECAR)) else "start"
    return Ending(
        _exit(pod, None, STUCK_CODE),
        (*_notes(pod), f"log: it may be incomplete: knit's container did not {verb}"),
        lingering=True,
        oom_killed=_is_oom_killed(pod),
        disruption=_lacked_sidecar(pod),
    )


def has_final_phase(pod: JsonObject) -> bool:
    """Says whether Kubernetes calls the pod `Succeeded` or `Failed`."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def being_taken_away(pod: JsonObject) -> str:
    """Gives why a pod that has not ended is to go; empty: it is not.

    A lost node confirms nothing, so that its pods look like this until the node comes back or is
    removed.
    """
    if _is_disruption_target(pod):
        return _disruption(pod)
    return "deleted while it was running" if being_deleted(pod) else ""


def waits_for_others(pod: JsonObject) -> bool:
    """Says whether knit's own containers have ended and others in the pod have not."""
    if has_final_phase(pod) or not all(map(_terminated, _own_statuses(pod))):
        return False
    return bool(_others_alive(pod))


def status_of(pod: JsonObject, name: str) -> JsonObject:
    """Gives the status of a container; empty if it has none."""
    return next((each for each in _statuses(pod) if each["name"] == name), {})


def exit_code(container: JsonObject) -> int | None:
    """Gives the exit code of a container that has ended; None: it has not."""
    terminated = _terminated(container)
    return terminated.get("exitCode", 0) if terminated else None


def finished_at(container: JsonObject) -> datetime | None:
    """Gives when a container ended; None: it has not, or nobody knows."""
    finished = instant(_terminated(container).get("finishedAt"))
    return finished if finished is not None and finished.year > 1970 else None


def _judged(pod: JsonObject, job: JsonObject | None) -> Ending:
    """Gives the ending of a pod that Kubernetes calls `Succeeded` or `Failed`."""
    taken, evicted = _taken_away(pod, job), _pod_reason(pod)
    told = evicted or (taken.how if taken else None)
    # By contract: 254 for one that is gone, 255 for one that the node rejected or evicted.
    exit = _exit(pod, told, LOST.code if taken and being_deleted(pod) else STUCK_CODE)
    return Ending(
        exit,
        _notes(pod),
        oom_killed=_is_oom_killed(pod),
        disruption=taken.disruption if taken else _disruption_by_node(pod) or _lacked_sidecar(pod),
    )


def _exit(pod: JsonObject, told: str | None, code: int) -> Exit:
    """Gives the exit of an ended pod: the exit code of the first failure that counts, and all.

    `told` is what is said of the pod as a whole, `code` its exit code if no container failed.
    """
    failed = _failures(pod)
    if not failed and told is None:
        others_failed = exit_code(status_of(pod, LOG_SIDECAR)) or _others_failed(pod)
        if pod["status"].get("phase") != "Failed" or others_failed:
            return SUCCEEDED
        told = "failed, and Kubernetes gives no reason"
    parts = [_text(name, terminated) for name, terminated in failed]
    if failed and failed[0][0] != MAIN and exit_code(status_of(pod, MAIN)) == 0:
        parts.append(f"(container {MAIN}) itself ended well")
    if told is not None:
        parts.insert(0, f"(pod {pod['metadata']['name']}) {told}")
    code = failed[0][1]["exitCode"] if failed else code
    # 256 would be cut to 0, which means success.
    return Exit(code if code & 0xFF else STUCK_CODE, "; ".join(parts))


def _failures(pod: JsonObject) -> list[tuple[str, JsonObject]]:
    """Gives (name, terminated state) of the failures that count, the most telling one first.

    Those of knit's own containers, but of the log sidecar only if the program has failed too, and
    of a program that the sidecar did not let start only the sidecar's; where the program never ran,
    those of what runs before it.
    """
    if _terminated(status_of(pod, MAIN)):
        if exit_code(status_of(pod, MAIN)) == 0:
            return []
        left_out = MAIN if _was_refused(pod) else None
        return [one for one in _failed(_own_statuses(pod)) if one[0] != left_out]
    sidecars = {
        one["name"]
        for one in pod["spec"].get("initContainers") or ()
        if one.get("restartPolicy") == "Always"
    }
    before = [
        each for each in _statuses(pod, "initContainerStatuses") if each["name"] not in sidecars
    ]
    return _failed(_statuses(pod)) or _failed(before)


def _failed(containers: Iterable[JsonObject]) -> list[tuple[str, JsonObject]]:
    failed = [(each["name"], _terminated(each)) for each in containers if exit_code(each)]
    return sorted(failed, key=lambda one: (one[0] == LOG_SIDECAR, -one[1]["exitCode"]))


def _was_refused(pod: JsonObject) -> bool:
    """Says whether outputs or log were not empty: then both containers fail with that sentence."""
    said = [_terminated(status_of(pod, name)).get("message") for name in (MAIN, LOG_SIDECAR)]
    return bool(said[0]) and said[0] == said[1]


def could_not_start(container: JsonObject) -> bool:
    """Says whether the runtime could not start a container; the log sidecar waits for it for ever.

    The kubelet gives its start as the instant zero.
    """
    terminated = _terminated(container)
    started = instant(terminated.get("startedAt"))
    return bool(terminated.get("exitCode")) and started is not None and started.year <= 1970


def _lacked_sidecar(pod: JsonObject) -> str:
    """Says why `main` did not start its command although nothing is wrong with that; else empty.

    The sidecar lays the program in its place, and lets it start the command. It may die before, or
    start too late: the kubelet goes on to the next container when it cannot start one, such as one
    whose image it could not pull just now.
    """
    if not _has_program_in_front(pod):
        return ""
    main, sidecar = status_of(pod, MAIN), status_of(pod, LOG_SIDECAR)
    message: str = _terminated(main).get("message") or ""
    if exit_code(main) == _UNREACHED_CODE and message.startswith(_UNREACHED):
        return f"(container {MAIN}) {message.splitlines()[0]}"
    over = finished_at(main)
    if not could_not_start(main) or over is None:
        return ""
    ended, began = finished_at(sidecar), _began_at(sidecar)
    if ended is not None and ended <= over:
        return f"(container {LOG_SIDECAR}) ended before {MAIN}, which cannot start without it"
    if began is not None and began > over:
        return f"(container {LOG_SIDECAR}) started after {MAIN}, which cannot start without it"
    return ""


def _has_program_in_front(pod: JsonObject) -> bool:
    """Says whether `main` begins with knit's program, which needs the sidecar."""
    containers = [one["name"] for one in pod["spec"]["containers"]]
    before = [one["name"] for one in pod["spec"].get("initContainers") or ()]
    return LOG_SIDECAR in containers and CHECK not in before


def _began_at(container: JsonObject) -> datetime | None:
    state = container.get("state") or {}
    return instant((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def _has_begun(container: JsonObject) -> bool:
    return bool((container.get("state") or {}).keys() & {"running", "terminated"})


def _notes(pod: JsonObject) -> tuple[str, ...]:
    """Gives what its exit does not tell.

    The log sidecar's notes on log and outputs, or that it failed itself; a process that was killed
    for memory; containers of others that failed.
    """
    terminated = _terminated(status_of(pod, LOG_SIDECAR))
    if not terminated.get("exitCode"):
        notes = [line for line in (terminated.get("message") or "").splitlines() if line]
    elif _was_refused(pod):
        notes = []
    else:
        notes = [f"log: it is incomplete: {_text(LOG_SIDECAR, terminated)}"]
    if _is_oom_killed(pod):
        notes.append(oom_note())
    if _terminated(status_of(pod, MAIN)):
        notes += [
            f"{_text(*one)}; it is not of knit, and does not count" for one in _others_failed(pod)
        ]
    return tuple(notes)


def _is_oom_killed(pod: JsonObject) -> bool:
    """Says whether a process of the program was killed for memory, and the program ended well."""
    terminated = _terminated(status_of(pod, MAIN))
    return terminated.get("reason") == "OOMKilled" and terminated.get("exitCode") == 0


def _taken_away(pod: JsonObject, job: JsonObject | None) -> _TakenAway | None:
    """Gives how the pod was taken away before it had ended; None: it was not.

    A program that exits with 0 on SIGTERM was interrupted all the same: its outputs are incomplete.
    Neither the instants, of two clocks, nor the deletion timestamp, which the API server replaces
    when the kubelet lets go of the pod, nor a Job that counts quickly, prove the contrary.
    """
    target = condition(pod, "DisruptionTarget") if _is_disruption_target(pod) else None
    if target is not None and (being_deleted(pod) or pod["status"]["phase"] == "Failed"):
        if _ended_before(pod, instant(target.get("lastTransitionTime"))):
            return None
        how = _disruption(pod)
        return _TakenAway(how, how)
    if not being_deleted(pod):
        return None
    counted = job is not None and _counts_failure(job)
    if not counted and _ended_before(pod, _deleted_at(pod)):
        return None
    how = "deleted while it was running"
    # Whoever removes the Job means it; who removes its pod makes room.
    lasts = job is None or being_deleted(job)
    return _TakenAway(how, "" if lasts else how)


def _disruption(pod: JsonObject) -> str:
    target = condition(pod, "DisruptionTarget") or {}
    return f"{target.get('reason')}: {target.get('message')}"


def _ended_before(pod: JsonObject, taken_at: datetime | None) -> bool:
    """Says whether all that is knit's had clearly ended before that instant."""
    ended = [finished_at(each) for each in _own_statuses(pod)]
    if taken_at is None or not ended:
        return False
    return all(at is not None and at + _CLOCKS_AGREE_TO < taken_at for at in ended)


def _deleted_at(pod: JsonObject) -> datetime | None:
    """Gives when the deletion was requested, or the kubelet let go of the pod."""
    expires = instant(pod["metadata"].get("deletionTimestamp"))
    grace = pod["metadata"].get("deletionGracePeriodSeconds") or 0
    return expires and expires - timedelta(seconds=grace)


def _counts_failure(job: JsonObject) -> bool:
    """Says whether a Job has counted its pod as failed: it counts a running one that is deleted."""
    status = job.get("status", {})
    uncounted = status.get("uncountedTerminatedPods") or {}
    targets = condition_is(job, "FailureTarget") or condition_is(job, "Failed")
    return bool(status.get("failed") or uncounted.get("failed") or targets)


def _disruption_by_node(pod: JsonObject) -> str:
    """Gives why the node gave the pod up through no fault of the program's; empty: it did not.

    A kubelet that evicts a pod for what the pod itself uses sets no DisruptionTarget.
    """
    reason: str = pod["status"].get("reason") or ""
    if pod["status"]["phase"] != "Failed" or reason == "Evicted":
        return ""
    if reason in _GIVEN_UP_BY_NODE or reason.startswith("OutOf"):
        return _pod_reason(pod) or reason
    main = _terminated(status_of(pod, MAIN))
    if main.get("reason") in _FOUND_DEAD:
        return f"the node found the container dead: {main['reason']}"
    return ""


def _pod_reason(pod: JsonObject) -> str | None:
    """Gives why the node rejected or evicted the pod (Evicted, OutOfcpu, NodeAffinity …)."""
    status = pod["status"]
    reason, message = status.get("reason"), status.get("message") or ""
    if status.get("phase") != "Failed" or not reason:
        return None
    return f"{reason}: {message}" if message else str(reason)


def _is_disruption_target(pod: JsonObject) -> bool:
    return condition_is(pod, "DisruptionTarget")


def _statuses(pod: JsonObject, key: str = "containerStatuses") -> list[JsonObject]:
    return pod.get("status", {}).get(key) or []


def _own_statuses(pod: JsonObject) -> list[JsonObject]:
    """Gives the status of each of knit's containers; a container may have none while others do."""
    names = [one["name"] for one in pod["spec"]["containers"] if one["name"] in _OWN]
    return [status_of(pod, name) for name in names]


def _others(pod: JsonObject) -> list[str]:
    return [one["name"] for one in pod["spec"]["containers"] if one["name"] not in _OWN]


def _others_alive(pod: JsonObject) -> list[str]:
    return [name for name in _others(pod) if not _terminated(status_of(pod, name))]


def _others_failed(pod: JsonObject) -> list[tuple[str, JsonObject]]:
    return _failed(status_of(pod, name) for name in _others(pod))


def _terminated(container: JsonObject) -> JsonObject:
    found: JsonObject = (container.get("state") or {}).get("terminated") or {}
    return found


def _containers(names: list[str]) -> str:
    return f"container{'' if len(names) == 1 else 's'} {', '.join(names)}"


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
