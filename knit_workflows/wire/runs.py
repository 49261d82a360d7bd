"""Runs on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from knit_workflows.wire.base import Response, is_absent, is_empty, optional
from knit_workflows.wire.options import MadeVolume, Pod
from knit_workflows.wire.plans import LogPoint, Mountpoint, PlanSummary
from knit_workflows.wire.times import WireTime


def _left_out_when_absent(wire_name: str) -> Any:
    """Makes a `?` field with a name of its own: a Run's are in camelCase, a Plan's are not."""
    return Field(
        default=None,
        exclude_if=is_absent,
        validation_alias=wire_name,
        serialization_alias=wire_name,
    )


class Exit(Response):
    """How the user's container ended: its exit code, 0 to 255, and a message."""

    code: int
    message: str


class Assignment(Mountpoint):
    """Which Data fills a mountpoint of a Run.

    The tags are the mountpoint's, not the Data's; `knit_id` is empty when the Data was deleted.
    """

    knit_id: str


class LogAssignment(LogPoint):
    """Which Data holds the log of a Run; the tags are the Plan's for its log."""

    knit_id: str


class RunSummary(Response):
    """What identifies a Run wherever it is mentioned, and how far it is.

    `status` is one of the contract's statuses, but plain text, so that a client can still show one
    that only a newer server knows.
    """

    run_id: str
    status: str
    updated_at: WireTime
    exit: Exit | None = optional()
    plan: PlanSummary


class Used(Response):
    """What the pod of a Run was given, whatever its Plan says now.

    `imageDigest` is the digest by which the Plan's repository gives the image that ran. If the node
    reported another repository that has the same image, it is `REPOSITORY@DIGEST`; `id:ID` for an
    image that was in no registry. `pod` and `volumes` (by path) are the options with which pod and
    volumes were made, those of the installation too; servers that record none leave them out.
    """

    resources: dict[str, str]
    service_account: str | None = _left_out_when_absent("serviceAccount")
    image_digest: str | None = _left_out_when_absent("imageDigest")
    pod: Pod | None = optional()
    volumes: dict[str, MadeVolume] = Field(default_factory=dict, exclude_if=is_empty)


class HookWait(Response):
    """The Before hook that keeps a Run from the status `to`: the id of its delivery, and its URL.

    It was asked `attempts` times, and is asked again at `next_at`; without that, it is just being
    asked.
    """

    delivery: str
    url: str
    to_status: str = Field(validation_alias="to", serialization_alias="to")
    attempts: int
    next_at: WireTime | None = optional()


class Waiting(Response):
    """Why a Run does not go on to its next status.

    `reason` is a sentence, `kind` the class of the reason, and `code` that of the back-end, such as
    `ErrImagePull`. `place` 1 is the next in the queue; without one the Run is far back in it, or
    not in it. `since` is when this kind of reason began; if it lasts until `until`, the Run fails.
    `outlook` says what knit does about it by itself, `hook` which hook it waits for. All but
    `reason` may be left out.
    """

    place: int | None = optional()
    reason: str
    kind: str = Field(default="", exclude_if=is_empty)
    code: str = Field(default="", exclude_if=is_empty)
    since: WireTime | None = optional()
    until: WireTime | None = optional()
    outlook: str = Field(default="", exclude_if=is_empty)
    hook: HookWait | None = optional()


class Run(RunSummary):
    """One Run in full. `log` is always there, null for a Plan that keeps none.

    Beyond the contract: `generation` counts the executions of the Run (a retry is the next);
    `priority` is left out when it is 0, `used` until its pod runs, `waiting` unless something keeps
    it from its next status. `notes` say what its exit does not, such as which parts of its outputs
    cannot be kept or that a process of it was killed for memory, and are left out if there is
    nothing to say. Servers other than knit send none of them.
    """

    inputs: list[Assignment]
    outputs: list[Assignment]
    log: LogAssignment | None = None
    generation: int | None = optional()
    priority: int = Field(default=0, exclude_if=is_empty)
    used: Used | None = optional()
    waiting: Waiting | None = optional()
    notes: list[str] = Field(default_factory=list, exclude_if=is_empty)


class PhaseTime(Response):
    """How many milliseconds a Run was, or has been so far, in a phase."""

    phase: str
    milliseconds: int


class RunTiming(Response):
    """Where the time of the newest execution of a Run went.

    `phases` are those that are known, in order; they add up to `milliseconds`. Of a Run that is not
    final the last one still goes on.
    """

    generation: int
    status: str
    milliseconds: int
    phases: list[PhaseTime]


class RunEvent(Response):
    """One change of a Run's status: when, in which execution, from what to what, why, by whom.

    `from` is left out for the Run's creation. Where `from` and `to` are the same, the Run stays as
    it is for the reason that `cause` gives. `used` is with what a launch has made volumes or pod.
    """

    at: WireTime
    generation: int
    from_status: str | None = Field(
        default=None, validation_alias="from", serialization_alias="from", exclude_if=is_absent
    )
    to_status: str = Field(validation_alias="to", serialization_alias="to")
    cause: str
    actor: str = ""
    exit: Exit | None = optional()
    used: Used | None = optional()
