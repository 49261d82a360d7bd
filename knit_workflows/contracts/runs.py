"""Messages and activities of `knit.Run`, which carries out one Run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Self

from pydantic import Field
from temporalio import activity

from knit_workflows import names
from knit_workflows.contracts.messages import Message
from knit_workflows.domain.hooks import Hooks
from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import RunStatus


class RunResult(Message):
    """How the Run ended: a final status, and its exit if it had one.

    `superseded`: the Run was deleted, retried or deactivated, so this execution ended early.
    """

    status: str
    exit_code: int | None = None
    exit_message: str = ""


class RunRef(Message):
    """One execution of a Run."""

    run_id: str
    generation: int


class HookCounts(Message):
    """How many hooks are in force; `before_digest` is that of `Hooks`."""

    before: int = 0
    after: int = 0
    before_digest: str = ""

    @classmethod
    def of(cls, hooks: Hooks) -> Self:
        """Counts hooks."""
        return cls(
            before=len(hooks.before), after=len(hooks.after), before_digest=hooks.before_digest
        )

    @property
    def asked(self) -> str | None:
        """Stands for the Before hooks; None if an earlier version has counted them."""
        return self.before_digest if self.before_digest or not self.before else None

    def __bool__(self) -> bool:
        return bool(self.before or self.after)


class Evidence(Message):
    """What was seen of the run pod, and the status to which it moves the Run; not yet recorded.

    `pod_ended`: the run pod has ended by itself, with all that is in it.
    """

    target: RunStatus
    cause: str
    pod_ended: bool = False
    exit_code: int | None = None
    exit_message: str = ""
    image_digest: str | None = None
    notes: tuple[str, ...] = ()
    timeline: dict[Milestone, datetime] = Field(default_factory=dict)
    """The milestones of the pod's life that were known then."""
    disruption: str = ""
    """Why the pod was taken away through no fault of the program's: the Run is launched again, if
    that has not happened too often, and only otherwise moved."""


class Progress(Message):
    """The status of the Run, and its exit once it has one.

    `pod_ended` says that the run pod has ended by itself. If the Run is no longer under way
    without that (stuck, lost, stopped, refused), the pod may still exist and must be removed first.
    """

    status: RunStatus
    pod_ended: bool = False
    exit_code: int | None = None
    exit_message: str = ""
    notes: tuple[str, ...] = ()
    """Sentences that the exit does not tell, such as which files of the outputs cannot be kept."""
    hooks: HookCounts | None = None
    """The hooks in force; None: none that would have to be called."""
    timing: tuple[str, ...] = ()
    """Where the time of a Run that has ended went: a line per phase."""
    evidence: Evidence | None = None
    """What moves the Run next, once its hooks agree."""


class RunInput(Message):
    """One generation of a Run. Queues and timeouts are part of it, so that replays see them."""

    run_id: str
    generation: int
    search_attributes: bool = False
    """Whether the server knows knit's search attributes."""
    compute_queue: str
    watch_queue: str
    interactive_queue: str = ""
    """Where stops are carried out; empty (in old histories): on the compute queue."""
    hooks_queue: str = names.HOOKS_QUEUE
    """Where hooks are called."""
    heartbeat: timedelta = timedelta(seconds=20)
    launch_within: timedelta | None = None
    """How long a worker may try to launch the Run as a part of the workflow's own task, without a
    task of its own for that. None: not at all."""
    hook_attempts: int = 0
    """How often the Before hooks of the present transition have been asked by earlier executions,
    whose histories had become long."""
    progress: Progress | None = None
    """How far an earlier execution, whose history had become long, has brought the Run: this one
    goes on from there. None: it is launched."""


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
    """The run pod can no longer write; `status` is that in the store."""

    status: RunStatus


class Step(RunRef):
    """One step of a Run to its next status.

    Without `hooks_called` it changes nothing while hooks are in force; nor while other Before hooks
    are than those that have agreed, whose digest `asked` is (None: it is not known).
    """

    hooks_called: bool = True
    asked: str | None = None


class RecordEvidence(Step):
    """Move the Run to the status that the evidence is of."""

    evidence: Evidence


class RelaunchRun(RunRef):
    """Launch a Run again whose pod was disrupted."""

    evidence: Evidence


class StopUpdate(Message):
    """A user's stop: as a failure, or as a success."""

    fail: bool


class StopAccepted(Message):
    """The stop is on its way."""

    phase: RunStatus


class RunActivities(ABC):
    """The activities of `knit.Run`. Each may run twice or die half-way."""

    @activity.defn(name="knit.launch_run")
    @abstractmethod
    async def launch_run(self, request: RunRef) -> Progress:
        """Creates the volumes (→ ready) and the run pod (→ starting); sees a short Run through.

        Comes back as soon as hooks are in force.
        """

    @activity.defn(name="knit.watch_run")
    @abstractmethod
    async def watch_run(self, request: RunRef) -> Progress:
        """Watches until the container has started (→ running), then ended (→ done or failed).

        Comes back as soon as hooks are in force.
        """

    @activity.defn(name="knit.stop_run")
    @abstractmethod
    async def stop_run(self, request: StopRun) -> Stopped:
        """Kills the run pod and waits until it is gone."""

    @activity.defn(name="knit.finalize_run")
    @abstractmethod
    async def finalize_run(self, request: Step) -> Progress:
        """Commits the lineage (→ done, failed), then releases the run pod."""

    @activity.defn(name="knit.create_volumes")
    @abstractmethod
    async def create_volumes(self, request: Step) -> Progress:
        """Creates the volumes (→ ready)."""

    @activity.defn(name="knit.create_pod")
    @abstractmethod
    async def create_pod(self, request: Step) -> Progress:
        """Creates the run pod (→ starting)."""

    @activity.defn(name="knit.watch_pod")
    @abstractmethod
    async def watch_pod(self, request: RunRef) -> Progress:
        """Watches until there is evidence for the Run's next status, and gives it."""

    @activity.defn(name="knit.record_evidence")
    @abstractmethod
    async def record_evidence(self, request: RecordEvidence) -> Progress:
        """Moves the Run as its evidence says."""

    @activity.defn(name="knit.relaunch_run")
    @abstractmethod
    async def relaunch_run(self, request: RelaunchRun) -> Progress:
        """Makes the next generation of a Run (→ waiting) once its disrupted pod is gone.

        Gives the status if that has changed meanwhile, and the evidence, no longer as one of a
        disruption, if the Run was launched too often.
        """


class EnsureRun(Message):
    """Requests the Run of a Plan with exactly these inputs: path → knit id."""

    plan_id: str
    inputs: dict[str, str]


class OutputData(Message):
    """A Data that a Run has made."""

    path: str
    knit_id: str


class FinishedRun(Message):
    """A finished Run as a user's own workflow sees it; `log` is the knit id of its log."""

    run_id: str
    status: RunStatus
    exit_code: int | None = None
    exit_message: str = ""
    outputs: tuple[OutputData, ...] = ()
    log: str | None = None


class AwaitRunActivities(ABC):
    """The activities of `knit_workflows.workflow.run_plan`."""

    @activity.defn(name="knit.ensure_run")
    @abstractmethod
    async def ensure_run(self, request: EnsureRun) -> RunRef:
        """Finds or creates the Run."""

    @activity.defn(name="knit.await_run")
    @abstractmethod
    async def await_run(self, request: RunRef) -> FinishedRun:
        """Waits until the Run is final."""
