"""Runs: their ten statuses, the legal moves between them, and how they end.

```
(new) ──► deactivated ◄──► waiting ──► ready ──► starting ──► running
               │              │          ├──────────┴───────────┤
               └──► aborting ◄┴──────────┴──────────┐           │
                       │                            └─► completing
                       ▼                                     ▼
                     failed                                 done      (deleted: invalidated)
```
Only this module knows the legal moves. Retry and deletion bypass them, with checks of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import PlanSummary
from knit_workflows.domain.tags import Tag


class RunStatus(StrEnum):
    """Where a Run stands."""

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
        """Whether the Run has ended; only a retry or a deletion moves it again."""
        return not MOVES[self]

    @property
    def is_under_way(self) -> bool:
        """Whether it has been started and nothing has ended it yet: its pod may be at work."""
        return self in (_S.STARTING, _S.RUNNING)

    @property
    def is_ending(self) -> bool:
        """Whether its outcome is known, and what is left of its pod is being removed."""
        return self in (_S.COMPLETING, _S.ABORTING)

    @property
    def has_volumes(self) -> bool:
        """Whether volumes have been created for it (one that was stopped early may have none)."""
        return self not in (_S.DEACTIVATED, _S.WAITING)

    @property
    def holds_resources(self) -> bool:
        """Whether a compute back-end may hold objects of it that are to be released."""
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
    """Says whether a Run may go from `current` to another status `target`."""
    return target in MOVES[current]


@dataclass(frozen=True, slots=True)
class Exit:
    """How the run pod ended: a code of 0–255 and a sentence of at most 1024 characters."""

    code: int
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", self.code & 0xFF)
        object.__setattr__(self, "message", self.message[:1024])


SUCCEEDED: Final = Exit(0, "")
STOPPED_BY_USER: Final = Exit(0, "stopped by user")
ABORTED_BY_USER: Final = Exit(253, "aborted by user")
LOST: Final = Exit(254, "worker for the run is not found")
STUCK_CODE: Final = 255
"""Exit code of a Run whose pod could not be started at all."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A mountpoint of a Run and the Data tied to it (None: the Data was discarded)."""

    path: str
    tags: tuple[Tag, ...]
    knit_id: KnitId | None


@dataclass(frozen=True, slots=True)
class LogAssignment:
    """The log of a Run and its Data (None: the Data was discarded)."""

    tags: tuple[Tag, ...]
    knit_id: KnitId | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A Run as other things refer to it."""

    run_id: RunId
    status: RunStatus
    updated_at: datetime
    exit: Exit | None
    plan: PlanSummary


@dataclass(frozen=True, slots=True)
class Used:
    """What the run pod really got, recorded when it was launched and when it started."""

    resources: Mapping[str, str]
    service_account: str | None
    image_digest: str | None


class WaitKind(StrEnum):
    """What a Run waits for that is waiting, ready or starting; decides what knit does about it."""

    INACTIVE = "inactive"
    """Its Plan, which is not active."""
    QUEUE = "queue"
    """Its place among the Runs under way."""
    WORKER = "worker"
    """A worker that takes its next step."""
    BACKEND = "backend"
    """The compute back-end, which does not answer."""
    UNSCHEDULABLE = "unschedulable"
    """Room for its pod."""
    IMAGE = "image"
    """Its image, which cannot be had."""
    TRANSIENT = "transient"
    """A mount, a network, a registry: what fails now and often works later."""
    PROGRESS = "progress"
    """What is being done for it, such as pulling its image."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a Run that is to start has not started its container, and what becomes of it.

    Also why one that has been stopped does not end.

    `place` is that in the queue (1: next; None: far behind, or not in it) and `reason` a sentence.
    What a back-end tells also has its own word for it (`code`, such as `ErrImagePull`). `since` is
    when this kind of reason began, `until` when the Run is given up if it lasts (None: never), and
    `outlook` says what knit does about it by itself.
    """

    place: int | None
    reason: str
    kind: WaitKind = WaitKind.QUEUE
    code: str = ""
    since: datetime | None = None
    until: datetime | None = None
    outlook: str = ""


@dataclass(frozen=True, slots=True)
class PendingReason:
    """What keeps a Run from starting, as a back-end tells it; `until` is when knit gives it up.

    `message` becomes one line of at most 1024 characters: it may be a program's output.
    """

    kind: WaitKind
    code: str
    message: str
    until: datetime | None = None

    def __post_init__(self) -> None:
        words = " ".join(self.message.replace("\0", " ").split())
        object.__setattr__(self, "message", words[:1024])


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A Run with its assignments: one per input and output of its Plan, in path order.

    `used` is None before its pod is launched, `waiting` unless there is a reason why it has not
    started. `notes` are sentences about its outputs, at most one each: what in them cannot be kept.
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
    """One change of a Run's status, append-only: when, from what to what, and why.

    From a status to the same: the Run stays there for the reason that `cause` says.
    """

    at: datetime
    generation: int
    from_status: RunStatus | None
    to_status: RunStatus
    cause: str
    exit: Exit | None


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What `run find` asks for: values of one field are alternatives, fields are combined."""

    plan_ids: frozenset[str] = frozenset()
    input_knit_ids: frozenset[str] = frozenset()
    output_knit_ids: frozenset[str] = frozenset()
    statuses: frozenset[RunStatus] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
