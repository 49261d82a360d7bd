"""Carrying out one Run: messages and activities of `knit.Run`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows.contracts.messages import Message
from knit_workflows.domain.runs import RunStatus


class RunInput(Message):
    """One generation of a Run. Queue names and time-outs travel along, so replays see the same."""

    run_id: str
    generation: int
    search_attributes: bool = False
    """Whether the server knows knit's search attributes."""
    compute_queue: str
    watch_queue: str
    interactive_queue: str = ""
    """Where stops are carried out; empty, as in histories of before there was one: with Runs."""
    heartbeat: timedelta = timedelta(seconds=20)


class RunResult(Message):
    """How the Run ended: a final status, and the exit when it had one.

    `superseded`: this execution had nothing more to do, as the Run was deleted, retried or
    deactivated meanwhile.
    """

    status: str
    exit_code: int | None = None
    exit_message: str = ""


class RunRef(Message):
    """One execution of a Run."""

    run_id: str
    generation: int


class Progress(Message):
    """How far the Run is, and its exit once it has one.

    `pod_ended` True: the run pod has ended by itself. False while it is under way, and where it
    may still be there although the Run is not (stuck, lost, stopped, refused): it must be removed
    first.
    """

    status: RunStatus
    pod_ended: bool = False
    exit_code: int | None = None
    exit_message: str = ""
    notes: tuple[str, ...] = ()
    """What cannot be kept of its outputs, in words."""


class Pending(Message):
    """Why a Run does not go on from a status; an empty reason: nothing keeps it any longer."""

    status: RunStatus
    reason: str = ""


class StopRun(Message):
    """Remove the run pod. `abort` first moves the Run to aborting, if the store does not know of a
    stop yet (a cancellation in Temporal)."""

    run_id: str
    generation: int
    abort: bool


class Stopped(Message):
    """Nothing of the run pod can write any more; the Run's status as the store has it."""

    status: RunStatus


class Finalized(Message):
    """The lineage is committed: the final status."""

    status: RunStatus


class StopUpdate(Message):
    """A user's stop: as a failure, or as a success."""

    fail: bool


class StopAccepted(Message):
    """The stop is on its way."""

    phase: RunStatus


class RunActivities(ABC):
    """What `knit.Run` does in the world. Each may run twice or die half-way."""

    @activity.defn(name="knit.launch_run")
    @abstractmethod
    async def launch_run(self, request: RunRef) -> Progress:
        """Creates the volumes (→ ready) and the run pod (→ starting); sees a short Run through."""

    @activity.defn(name="knit.watch_run")
    @abstractmethod
    async def watch_run(self, request: RunRef) -> Progress:
        """Watches until the container has started (→ running), then ended (→ completing …)."""

    @activity.defn(name="knit.stop_run")
    @abstractmethod
    async def stop_run(self, request: StopRun) -> Stopped:
        """Kills the run pod and waits until it is gone."""

    @activity.defn(name="knit.finalize_run")
    @abstractmethod
    async def finalize_run(self, request: RunRef) -> Finalized:
        """Commits the lineage (→ done, failed), then releases the run pod."""


class EnsureRun(Message):
    """Ask for the Run of a Plan with exactly these inputs: path → knit id."""

    plan_id: str
    inputs: dict[str, str]


class OutputData(Message):
    """A Data that a Run made."""

    path: str
    knit_id: str


class FinishedRun(Message):
    """A final Run as a user's own workflow sees it; `log` is the log's knit id."""

    run_id: str
    status: RunStatus
    exit_code: int | None = None
    exit_message: str = ""
    outputs: tuple[OutputData, ...] = ()
    log: str | None = None


class AwaitRunActivities(ABC):
    """What `knit_workflows.workflow.run_plan` uses."""

    @activity.defn(name="knit.ensure_run")
    @abstractmethod
    async def ensure_run(self, request: EnsureRun) -> RunRef:
        """Finds or creates the Run."""

    @activity.defn(name="knit.await_run")
    @abstractmethod
    async def await_run(self, request: RunRef) -> FinishedRun:
        """Waits until the Run is final."""
