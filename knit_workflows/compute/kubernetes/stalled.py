"""What is known of a pod that does not start although nothing is wrong with it; pure.

Neither a waiting reason nor a Warning tells of a Job controller that does not work, of a scheduler
or a node that has not taken a pod up, of a volume that is being provisioned, or of an image that
takes long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.objects import JsonObject, condition, condition_is


def why_stalled(
    pod: JsonObject | None, claims: Mapping[str, str], events: Sequence[JsonObject]
) -> StartFailure:
    """Says what a pending pod without failure is at; None: its Job has no pod.

    `claims` gives the phase of each of its claims by name, `events` all that is said about the
    pod, oldest first.
    """
    if pod is None:
        return _nobody("NoPod", "the cluster has made no pod for its Job yet, and gives no reason")
    if condition(pod, "PodScheduled") is None:
        return _nobody("NotScheduled", "no scheduler of the cluster has taken up its pod yet")
    unbound = [name for name, phase in claims.items() if phase != "Bound"]
    if condition_is(pod, "PodScheduled", "False") or unbound:
        words = ", ".join(f"{name} is {claims[name]}" for name in unbound)
        about = f"its pod waits for its claims: {words or 'all are Bound'}"
        return StartFailure(StartFailureKind.PROGRESS, "ClaimsPending", about)
    node = pod["spec"].get("nodeName", "?")
    if not pod.get("status", {}).get("containerStatuses"):
        return _nobody("NodeSilent", f"the node {node} has not taken up its pod yet")
    last = events[-1] if events else {}
    if last.get("reason") == "Pulling":
        words = last.get("message") or "Pulling an image"
        return StartFailure(StartFailureKind.PROGRESS, "Pulling", f"the node {node}: {words}")
    return StartFailure(
        StartFailureKind.PROGRESS,
        "ContainerCreating",
        f"the node {node} prepares its pod, and says nothing of mounts, network or images; its "
        f"claims are {', '.join(sorted(set(claims.values()))) or 'none'}",
    )


def claims_of(pod: JsonObject) -> list[str]:
    """Gives the names of the claims that a pod mounts."""
    volumes = pod["spec"].get("volumes") or ()
    return [
        one["persistentVolumeClaim"]["claimName"]
        for one in volumes
        if "persistentVolumeClaim" in one
    ]


def _nobody(reason: str, message: str) -> StartFailure:
    return StartFailure(StartFailureKind.BACKEND, reason, message)
