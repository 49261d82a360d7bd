"""Why a pod does not start although nothing has failed; pure.

No waiting reason and no Warning event reports a Job controller that does not work, a scheduler or a
node that has not picked up the pod, a volume that is being provisioned, or an image that takes long
to pull.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.objects import JsonObject, condition, condition_is


def why_stalled(
    pod: JsonObject | None, claims: Mapping[str, str], events: Sequence[JsonObject]
) -> StartFailure:
    """Says what a pending pod without a start failure waits for; pod None: its Job has no pod.

    `claims` maps the names of its claims to their phases; `events` are all events about the pod,
    oldest first.
    """
    if pod is None:
        return _no_response(
            "NoPod", "the cluster has made no pod for its Job yet, and gives no reason"
        )
    if condition(pod, "PodScheduled") is None:
        return _no_response("NotScheduled", "no scheduler of the cluster has picked up the pod yet")
    unbound = [name for name, phase in claims.items() if phase != "Bound"]
    if condition_is(pod, "PodScheduled", "False") or unbound:
        states = ", ".join(f"{name} is {claims[name]}" for name in unbound)
        about = f"the pod waits for its claims: {states or 'all are Bound'}"
        return StartFailure(StartFailureKind.PROGRESS, "ClaimsPending", about)
    node = pod["spec"].get("nodeName", "?")
    if not pod.get("status", {}).get("containerStatuses"):
        return _no_response("NodeSilent", f"the node {node} has not picked up the pod yet")
    last = events[-1] if events else {}
    if last.get("reason") == "Pulling":
        message = last.get("message") or "Pulling an image"
        return StartFailure(StartFailureKind.PROGRESS, "Pulling", f"the node {node}: {message}")
    return StartFailure(
        StartFailureKind.PROGRESS,
        "ContainerCreating",
        f"the node {node} prepares the pod, and reports no failed mount, network or image; its "
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


def _no_response(reason: str, message: str) -> StartFailure:
    return StartFailure(StartFailureKind.BACKEND, reason, message)
