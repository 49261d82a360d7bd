"""Why a pod does not start although nothing has failed; pure.

No waiting reason and no Warning event reports a Job controller that does not work, a scheduler or a
node that has not picked up the pod, a volume that is being provisioned, or an image that takes long
to pull. The claims of a class with `WaitForFirstConsumer` are the quietest: while the scheduler
waits for their provisioner, ten minutes, the pod has neither a condition nor an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from knit_workflows.compute.base import StartFailure
from knit_workflows.compute.kubernetes.api.objects import JsonObject, condition, condition_is
from knit_workflows.compute.kubernetes.pods.waits import WAITS
from knit_workflows.compute.kubernetes.specs.run_containers import CHECK

_NODE: Final = "volume.kubernetes.io/selected-node"
_PROVISIONER: Final = "volume.kubernetes.io/storage-provisioner"


@dataclass(frozen=True, slots=True)
class ClaimState:
    """A claim as far as it matters to who waits for it; `last` is what its last event says."""

    phase: str
    storage_class: str = ""
    node: str = ""
    provisioner: str = ""
    last: str = ""

    @property
    def words(self) -> str:
        """Says how it is: `Pending (class slow, provisioner x.example, for the node n1: …)`."""
        if self.phase == "Bound":
            return self.phase
        parts = (
            (self.storage_class, "class {}"),
            (self.provisioner, "provisioner {}"),
            (self.node, "for the node {}"),
        )
        known = ", ".join(words.format(value) for value, words in parts if value)
        about = ": ".join(filter(None, (known, self.last)))
        return f"{self.phase} ({about})" if about else self.phase


def read_claim(claim: JsonObject | None, events: Sequence[JsonObject] = ()) -> ClaimState:
    """Reads a claim, and its events, oldest first; None: it does not exist."""
    if claim is None:
        return ClaimState("missing")
    annotations = claim["metadata"].get("annotations") or {}
    return ClaimState(
        phase=(claim.get("status") or {}).get("phase", "Pending"),
        storage_class=(claim.get("spec") or {}).get("storageClassName") or "",
        node=annotations.get(_NODE, ""),
        provisioner=annotations.get(_PROVISIONER, ""),
        last=((events[-1].get("message") or "") if events else "").strip(),
    )


def why_stalled(
    pod: JsonObject | None, claims: Mapping[str, ClaimState], events: Sequence[JsonObject]
) -> StartFailure:
    """Says what a pending pod without a start failure waits for; pod None: its Job has no pod.

    `claims` are its claims by name; `events` are all events about the pod, oldest first.
    """
    if pod is None:
        return WAITS["NoPod"].failure()
    unbound = {name: claim for name, claim in claims.items() if claim.phase != "Bound"}
    if condition(pod, "PodScheduled") is None and not any(one.node for one in unbound.values()):
        scheduler = pod["spec"].get("schedulerName") or "default-scheduler"
        return WAITS["NotScheduled"].failure(scheduler=scheduler, claims=_told(claims))
    if not condition_is(pod, "PodScheduled") or unbound:
        return WAITS["ClaimsPending"].failure(claims=_told(unbound) if unbound else "all are Bound")
    node = pod["spec"].get("nodeName", "?")
    if not pod.get("status", {}).get("containerStatuses"):
        return WAITS["NodeSilent"].failure(node=node, claims=_told(claims))
    if initializing := _initializing(pod):
        return initializing
    last = events[-1] if events else {}
    if last.get("reason") == "Pulling":
        message = last.get("message") or "Pulling an image"
        return WAITS["Pulling"].failure(node=node, message=message)
    return WAITS["ContainerCreating"].failure(node=node, claims=_told(claims))


def claims_of(pod: JsonObject) -> list[str]:
    """Gives the names of the claims that a pod mounts."""
    volumes = pod["spec"].get("volumes") or ()
    return [
        one["persistentVolumeClaim"]["claimName"]
        for one in volumes
        if "persistentVolumeClaim" in one
    ]


def _initializing(pod: JsonObject) -> StartFailure | None:
    """Says which init container of others is not done, or which sidecar of others not started."""
    sidecars = {
        one["name"]
        for one in pod["spec"].get("initContainers") or ()
        if one.get("restartPolicy") == "Always"
    }
    for status in pod["status"].get("initContainerStatuses") or ():
        running = status.get("state", {}).get("running")
        name = status["name"]
        if running is None or name == CHECK or (name in sidecars and status.get("started")):
            continue
        wait = WAITS["SidecarStarting" if name in sidecars else "InitContainer"]
        return wait.failure(name=name, since=running.get("startedAt") or "?")
    return None


def _told(claims: Mapping[str, ClaimState]) -> str:
    """Says how claims are: only of those that are not bound which they are."""
    told = [f"{name} is {one.words}" for name, one in claims.items() if one.phase != "Bound"]
    return ", ".join(told) or ("Bound" if claims else "none")
