"""Runs: their ten statuses, the legal moves between them, and how they end.

```
(new) ──► deactivated ◄──► waiting ──► ready ──► starting ──► running
               │              │          ├──────────┴───────────┤
               └──► aborting ◄┴──────────┴──────────┐           │
                       │                            └─► completing
                       ▼                                     ▼
                     failed                                 done      (deleted: invalidated)
```
Only this module knows the legal moves. Retry and deletion bypass them, with their own checks; so
does the launch that follows a disruption: from starting or running back to waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import PlanSummary
from knit_workflows.domain.plans.options import NO_OPTIONS, PlanOptions
from knit_workflows.domain.runs.milestones import Timeline
from knit_workflows.domain.tags import Tag


class RunStatus(StrEnum):
    """The status of a Run."""

    DEACTIVATED = "deactivated"
    WAITING = "waiting"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETING = "completing"
    ABORTING = "aborting"
    DONE = "done"
    FAILED = "failed"
    INVALIDATED = "invalidated"

    @property
    def is_final(self) -> bool:
        """Whether the Run has ended; only a retry or a deletion changes it again."""
        return not MOVES[self]

    @property
    def is_under_way(self) -> bool:
        """Whether its pod has been created and may be running."""
        return self in (_S.STARTING, _S.RUNNING)

    @property
    def is_ending(self) -> bool:
        """Whether its outcome is decided and its pod is being removed."""
        return self in (_S.COMPLETING, _S.ABORTING)

    @property
    def has_volumes(self) -> bool:
        """Whether it has volumes, unless it was stopped early or deleted."""
        return self not in (_S.DEACTIVATED, _S.WAITING)

    @property
    def holds_resources(self) -> bool:
        """Whether the compute back-end may hold objects of it that must be released."""
        return self.has_volumes and not self.is_final


_S = RunStatus

MOVES: Final[Mapping[RunStatus, frozenset[RunStatus]]] = {
    _S.DEACTIVATED: frozenset({_S.WAITING, _S.ABORTING}),
    _S.WAITING: frozenset({_S.DEACTIVATED, _S.READY, _S.ABORTING}),
    _S.READY: frozenset({_S.STARTING, _S.RUNNING, _S.ABORTING, _S.COMPLETING}),
    _S.STARTING: frozenset({_S.RUNNING, _S.ABORTING, _S.COMPLETING}),
    _S.RUNNING: frozenset({_S.ABORTING, _S.COMPLETING}),
    _S.ABORTING: frozenset({_S.FAILED}),
    _S.COMPLETING: frozenset({_S.DONE}),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset(),
    _S.INVALIDATED: frozenset(),
}


def may_move(current: RunStatus, target: RunStatus) -> bool:
    """Says whether a Run may move from `current` to `target`."""
    return target in MOVES[current]


@dataclass(frozen=True, slots=True)
class Exit:
    """How the run pod ended: an exit code (0–255) and a message, cut to 1024 characters.

    The message may be what a program has written: NUL, which no database can hold, becomes a space.
    """

    code: int
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.code & 0xFF)
        object.__setattr__(self, "message", self.message[:1024].replace("\0", " "))


SUCCEEDED: Final = Exit(0, "")
STOPPED_BY_USER: Final = Exit(0, "stopped by user")
ABORTED_BY_USER: Final = Exit(253, "aborted by user")
LOST: Final = Exit(254, "worker for the run is not found")
OOM_KILLED: Final = Exit(137, "(container main) OOMKilled, although it ended with exit code 0")
KNIT: Final = "knit"
"""Who makes the changes that no user asks for."""
USER: Final = "user"
"""Who makes the others where accounts are off."""
STUCK_CODE: Final = 255
"""Exit code of a Run whose pod could not be started."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A mountpoint of a Run and its Data (None: it was discarded)."""

    path: str
    tags: tuple[Tag, ...]
    knit_id: KnitId | None


@dataclass(frozen=True, slots=True)
class LogAssignment:
    """The log of a Run and its Data (None: it was discarded)."""

    tags: tuple[Tag, ...]
    knit_id: KnitId | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What other objects show of a Run."""

    run_id: RunId
    status: RunStatus
    updated_at: datetime
    exit: Exit | None
    plan: PlanSummary


@dataclass(frozen=True, slots=True)
class Used:
    """What the run pod was really given, recorded at launch and at start.

    `options` are those with which its pod and its volumes were made, whether the Plan had them or
    the installation, as far as the back-end knows any.
    """

    resources: Mapping[str, str]
    service_account: str | None
    image_digest: str | None
    options: PlanOptions = NO_OPTIONS


class WaitKind(StrEnum):
    """What a Run that does not go on waits for; decides what knit does about it."""

    INACTIVE = "inactive"
    """The activation of its Plan."""
    QUEUE = "queue"
    """Its turn in the queue."""
    WORKER = "worker"
    """A worker that takes the next step."""
    BACKEND = "backend"
    """An unreachable compute back-end."""
    UNSCHEDULABLE = "unschedulable"
    """Capacity for its pod, or room in a quota."""
    REFUSED = "refused"
    """A change of the rule of the cluster that forbids its pod."""
    IMAGE = "image"
    """Its image, which cannot be pulled."""
    TRANSIENT = "transient"
    """A mount, a network, a registry: failures that often go away."""
    PROGRESS = "progress"
    """Work in progress, such as pulling its image."""
    HOOK = "hook"
    """A lifecycle hook, which does not agree."""
    OTHER = "other"
    """Something that only a newer knit knows, whose worker has reported it."""

    @classmethod
    def reported(cls, word: str) -> WaitKind:
        """Reads what a worker has reported, which may be newer than the reader."""
        return cls(word) if word in set(cls) else cls.OTHER


DISRUPTED: Final = "Disrupted"
"""Code of the reason of a Run that is launched again once its disrupted pod is gone."""
OUTPUTS_READ: Final = "OutputsRead"
"""The same, once nobody reads what that pod has written."""


@dataclass(frozen=True, slots=True)
class HookWait:
    """The Before hook that a Run waits for, as one delivery with `attempts` calls so far.

    `next_at` is when the hook is asked again; None: it is being asked.
    """

    delivery_id: str
    url: str
    target: RunStatus
    attempts: int
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a Run does not go on to its next status, and what happens next.

    `position` is that in the queue (1: next; None: far behind, or not queued), `reason` a sentence.
    `code` is the back-end's own word (such as `ErrImagePull`), if it has one. `since` is when this
    kind of reason began, `until` when the Run is given up if it lasts (None: never); `outlook` says
    what knit does about it by itself. `hook` is set if it waits for one.
    """

    position: int | None
    reason: str
    kind: WaitKind = WaitKind.QUEUE
    code: str = ""
    since: datetime | None = None
    until: datetime | None = None
    outlook: str = ""
    hook: HookWait | None = None


@dataclass(frozen=True, slots=True)
class PendingReason:
    """Why a Run does not go on, as reported; `until` is when knit gives it up.

    `message`, which may be the output of a program, becomes one line of at most 1024 characters.
    """

    kind: WaitKind
    code: str
    message: str
    until: datetime | None = None

    def __post_init__(self) -> None:
        line = " ".join(self.message.replace("\0", " ").split())
        object.__setattr__(self, "message", line[:1024])


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A Run with its assignments: one per input and output of its Plan, in path order.

    `used` is None before its pod is launched; `waiting` is set if something keeps it from its next
    status. `notes` are sentences about how it was launched and how it ended that its exit does not
    tell, such as which files of its outputs cannot be kept.
    """

    summary: RunSummary
    generation: int
    inputs: tuple[Assignment, ...]
    outputs: tuple[Assignment, ...]
    log: LogAssignment | None
    priority: int = 0
    used: Used | None = None
    waiting: Waiting | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One change of a Run's status: when, from what to what, why, and by whom. Append-only.

    If both statuses are equal, `cause` says why the Run does not go on, or what happened to a Data
    that it has made. `timeline` is what was known then of the life of its pod; empty for most.
    `used` is set where a launch has made volumes (their options alone) or the pod (the rest).
    """

    at: datetime
    generation: int
    from_status: RunStatus | None
    to_status: RunStatus
    cause: str
    exit: Exit | None
    actor: str = KNIT
    timeline: Timeline = field(default_factory=dict, compare=False)
    used: Used | None = None


@dataclass(frozen=True, slots=True)
class RunQuery:
    """The filter of `run find`: values of one field are alternatives, fields are combined."""

    plan_ids: frozenset[str] = frozenset()
    input_knit_ids: frozenset[str] = frozenset()
    output_knit_ids: frozenset[str] = frozenset()
    statuses: frozenset[RunStatus] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
