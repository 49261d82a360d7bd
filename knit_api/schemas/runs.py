"""Runs on the wire."""

from pydantic import Field

from knit_api.schemas.plans import LogPoint, Mountpoint, PlanSummary
from knit_api.schemas.times import WireTime
from knit_api.schemas.wire import Response, is_absent


class Exit(Response):
    """How the user's container ended: its exit code, 0 to 255, and the reason in words."""

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

    `status` is one of the contract's words; it is plain text here, so that a client can still show
    what a newer server says.
    """

    run_id: str
    status: str
    updated_at: WireTime
    exit: Exit | None = Field(default=None, exclude_if=is_absent)
    plan: PlanSummary


class Run(RunSummary):
    """One Run in full. `log` is always there, null for a Plan that keeps none."""

    inputs: list[Assignment]
    outputs: list[Assignment]
    log: LogAssignment | None = None
