"""Every way a run pod waits, as a table: how it is known, its code, its kind, its words; pure.

The kind decides the deadline (`activities.deadlines`). What an API server or a Job controller
refuses has a table of its own (`refusals`). The page docs/how-to/why-a-run-waits.md says the same
to operators, code by code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.api.refusals import REFUSALS


class Source(Enum):
    """How a way of waiting is known."""

    CONTAINER = auto()
    """The reason why a container of the pod waits."""
    CONDITION = auto()
    """The condition PodScheduled of the pod, or the Job's own state."""
    POD_EVENT = auto()
    """A Warning event about the pod."""
    CLAIM_EVENT = auto()
    """A Warning event about a claim of a pod that no node has yet."""
    LOOK = auto()
    """Nothing; knit has looked for it after `stalled_after`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One way of waiting; `words` are said unless the cluster says more, and may name groups."""

    code: str
    kind: StartFailureKind
    source: Source
    words: str

    def failure(self, said: str = "", /, **groups: str) -> StartFailure:
        """Gives what is said of a pod that waits so: what the cluster says, or the words."""
        return StartFailure(self.kind, self.code, said or self.words.format(**groups))


_IMAGE, _TRANSIENT = StartFailureKind.IMAGE, StartFailureKind.TRANSIENT
_ROOM, _SILENT = StartFailureKind.UNSCHEDULABLE, StartFailureKind.BACKEND
_WORKING = StartFailureKind.PROGRESS

PULLS: Final = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")
"""The kinds of these follow from what the registry says; see `compute.pull_errors`."""

_TABLE: Final = (
    *(Wait(code, _IMAGE, Source.CONTAINER, "the image cannot be pulled") for code in PULLS),
    Wait("InvalidImageName", _IMAGE, Source.CONTAINER, "the image has no valid name"),
    Wait("ErrImageNeverPull", _IMAGE, Source.CONTAINER, "the node has not got the image"),
    Wait("SignatureValidationFailed", _IMAGE, Source.CONTAINER, "the image is not signed"),
    Wait(
        "CreateContainerConfigError", _TRANSIENT, Source.CONTAINER, "something it names is missing"
    ),
    Wait("CreateContainerError", _TRANSIENT, Source.CONTAINER, "the node cannot create it"),
    Wait("RunContainerError", _TRANSIENT, Source.CONTAINER, "the node cannot start it"),
    Wait("CrashLoopBackOff", _TRANSIENT, Source.CONTAINER, "it ends again and again"),
    Wait("Unschedulable", _ROOM, Source.CONDITION, "no node takes the pod"),
    Wait("SchedulerError", _ROOM, Source.CONDITION, "the scheduler failed"),
    Wait("SchedulingGated", _ROOM, Source.CONDITION, "a scheduling gate holds the pod back"),
    Wait(
        "JobSuspended",
        _ROOM,
        Source.CONDITION,
        "the Job is suspended: a queue or a person holds it",
    ),
    Wait("Deleting", _TRANSIENT, Source.CONDITION, "the Job is being deleted"),
    Wait("FailedAttachVolume", _TRANSIENT, Source.POD_EVENT, "a volume cannot be attached"),
    Wait("FailedMount", _TRANSIENT, Source.POD_EVENT, "a volume cannot be mounted"),
    Wait("FailedMapVolume", _TRANSIENT, Source.POD_EVENT, "a volume cannot be mapped"),
    Wait("FailedCreatePodSandBox", _TRANSIENT, Source.POD_EVENT, "the node cannot set the pod up"),
    Wait(
        "FailedCreatePodContainer", _TRANSIENT, Source.POD_EVENT, "the node cannot set the pod up"
    ),
    Wait("FailedPrepareDynamicResources", _TRANSIENT, Source.POD_EVENT, "a device is not ready"),
    Wait("FailedSync", _TRANSIENT, Source.POD_EVENT, "the node cannot set the pod up"),
    Wait("NetworkNotReady", _TRANSIENT, Source.POD_EVENT, "the node's network is not ready"),
    Wait(
        "SidecarNotStarted",
        _TRANSIENT,
        Source.POD_EVENT,
        "(container {name}) the sidecar runs, but does not say that it has started: {message}",
    ),
    Wait("ProvisioningFailed", _ROOM, Source.CLAIM_EVENT, "its claim {name}: {message}"),
    Wait("ProvisioningCleanupFailed", _ROOM, Source.CLAIM_EVENT, "its claim {name}: {message}"),
    Wait("VolumeMismatch", _ROOM, Source.CLAIM_EVENT, "its claim {name}: {message}"),
    Wait("ClaimMisbound", _ROOM, Source.CLAIM_EVENT, "its claim {name}: {message}"),
    Wait("ClaimLost", _ROOM, Source.CLAIM_EVENT, "its claim {name}: {message}"),
    Wait(
        "ClaimGone",
        _TRANSIENT,
        Source.CONDITION,
        "its claim {name} is gone, as if somebody had deleted it: {message}",
    ),
    Wait(
        "NoPod",
        _SILENT,
        Source.LOOK,
        "nothing heard of the Job: the cluster's Job controller has made no pod for its Job, and "
        "gives no reason",
    ),
    Wait(
        "NotScheduled",
        _SILENT,
        Source.LOOK,
        "nothing heard of the pod: no scheduler named {scheduler} has picked it up; its claims are "
        "{claims}",
    ),
    Wait("ClaimsPending", _WORKING, Source.LOOK, "the pod waits for its claims: {claims}"),
    Wait(
        "NodeSilent",
        _SILENT,
        Source.LOOK,
        "nothing heard of the pod: the node {node} has not picked it up; its claims are {claims}",
    ),
    Wait("Pulling", _WORKING, Source.LOOK, "the node {node}: {message}"),
    Wait(
        "InitContainer",
        _WORKING,
        Source.LOOK,
        "the init container {name}, which is not knit's, has been running since {since}",
    ),
    Wait(
        "SidecarStarting",
        _WORKING,
        Source.LOOK,
        "the sidecar {name}, which is not knit's, runs since {since} but has not started",
    ),
    Wait(
        "ContainerCreating",
        _WORKING,
        Source.LOOK,
        "the node {node} prepares the pod, and reports no failed mount, network or image; its "
        "claims are {claims}",
    ),
)

WAITS: Final[Mapping[str, Wait]] = {one.code: one for one in _TABLE}
"""By code."""

CODES: Final[Mapping[str, StartFailureKind]] = {
    **{code: one.kind for code, one in WAITS.items()},
    **{rule.code: rule.kind for rule in REFUSALS},
}
"""The kind of each code that a pod or Job is told to wait with."""


def known(code: str, source: Source) -> Wait | None:
    """Gives the way of waiting with that code, if it is known from there."""
    found = WAITS.get(code)
    return found if found is not None and found.source is source else None
