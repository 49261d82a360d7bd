"""The compute contract: what knit asks of the place where run pods and volumes live.

Stated in behaviour, so that every adapter (memory, local, Kubernetes) passes one suite
(`tests/contract/compute`):

* Every call may be repeated with the same arguments and finds what is already there; it may die
  half-way and be called again. Nothing is ever started twice under one pod name.
* Calls return at once: they ask for a state and do not wait for the world to reach it.
  Waiting is done with `watch`.
* What is gone is not an error: `observe` says `Phase.ABSENT`, `stop` and `release` succeed.
* Trouble that may pass raises `BackendUnavailable`; what can never work raises `BackendRejected`.
* How the user's container ends is an outcome (an `Exit` in an `Observation`), never an exception.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from knit_workflows.domain.plans.model import NodeRule
from knit_workflows.domain.runs import Exit


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume to hold one Data; `name` is from `names.volume`."""

    name: str
    knit_id: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume seen by the container at an absolute, clean `path`; inputs are read-only."""

    path: str
    volume: Volume


@dataclass(frozen=True, slots=True)
class RunPod:
    """Everything needed to start a Run's container.

    `name` is from `names.run_pod` and unique per (Run, generation). `inputs` (one or more; the
    same volume may appear at several) are mounted read-only, `outputs` (none or more, each an own
    volume) read-write and must be empty at the start, or the pod ends as failed, naming the output.
    The container's stdout and stderr, as they were written, become the file `log` in the `log`
    volume, which the container does not see. Empty `entrypoint`/`args` mean the image's own.
    `resources` maps names to Kubernetes quantities and limits the container.
    """

    name: str
    run_id: str
    generation: int
    plan_id: str
    image: str
    inputs: tuple[Mount, ...]
    outputs: tuple[Mount, ...] = ()
    log: Volume | None = None
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)
    on_node: tuple[NodeRule, ...] = ()
    service_account: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class Phase(StrEnum):
    """How far a run pod is."""

    ABSENT = "absent"
    """Nothing of it exists: never launched, or wholly gone (nothing of it can write any more)."""
    PENDING = "pending"
    """It exists; the user's container has not started."""
    RUNNING = "running"
    """The user's container has started."""
    SUCCEEDED = "succeeded"
    """It ended well and its log is complete; `exit` is set."""
    FAILED = "failed"
    """It ended badly and its log is complete; `exit` is set, its message says which container."""


MANY_RUNS: Final = 500
"""How many Runs at once suit a back-end that has a scheduler of its own: enough to keep it busy."""

ENDED = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class TroubleKind(StrEnum):
    """Why a pending pod does not start; decides how long knit is patient."""

    IMAGE = "image"
    """The image cannot be had: invalid name, not found, denied. Ends the Run quite soon."""
    TRANSIENT = "transient"
    """A mount, network or sandbox fails; often passes. Ends the Run after a long while."""
    UNSCHEDULABLE = "unschedulable"
    """No room for it; waits for as long as it takes, and says so."""
    BACKEND = "backend"
    """What would start it does not answer; waits for as long as it takes, and says so."""
    PROGRESS = "progress"
    """None really: it is being done, such as pulling the image, and takes its time."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a pending pod from starting: `reason` is one word, `message` a sentence.

    It is told as soon as it is known, and anew when it changes. What only counts (attempts,
    seconds) changes the message at most, never the kind or the reason.
    """

    kind: TroubleKind
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """A run pod as it is now. `exit` is set iff the phase is SUCCEEDED or FAILED.

    `ended_at` is the instant (UTC) at which the user's container ended, as the back-end knows it.
    `notes` are sentences about the outputs of a pod that has ended, at most one for each, in path
    order: what in them cannot be kept. A comfort: a back-end that could not look says nothing.
    """

    phase: Phase
    exit: Exit | None = None
    trouble: Trouble | None = None
    image_digest: str | None = None
    ended_at: datetime | None = None
    notes: tuple[str, ...] = ()


class TransferMode(StrEnum):
    """Which way Data flows through a transfer."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A door to one volume: `name` from `names.transfer`, unique per transfer.

    `token` is the secret the door asks for; `idle` the time after which an unused door may close
    itself. A WRITE transfer needs an existing, empty volume.
    """

    name: str
    volume: Volume
    mode: TransferMode
    token: str
    idle: timedelta = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an open transfer answers.

    `url` is `file:///absolute/folder` (the caller uses the folder directly) or
    `http://host:port/`, spoken to as `knit_workflows.pod.agent` says, with the transfer's token.
    """

    url: str


@dataclass(frozen=True, slots=True)
class RunsAtOnce:
    """How many Runs under way at once suit a back-end.

    `attended`: while somebody waits for a transfer or a stop, and shares the machine with them;
    `short`: while nobody does, and they come and go quickly.
    """

    usual: int
    attended: int
    short: int

    @classmethod
    def always(cls, count: int) -> RunsAtOnce:
        """Give the same number whatever goes on."""
        return cls(count, count, count)

    def at_most(self, limit: int) -> RunsAtOnce:
        """Give what somebody wants who knows better: so many, and fewer while somebody waits."""
        return RunsAtOnce(limit, min(self.attended, limit), limit)


class ComputeBackend(Protocol):
    """Runs containers to their end and keeps volumes. See the module for how calls behave."""

    async def open(self) -> None:
        """Connect, start informers. Called once per process, before anything else."""

    async def aclose(self) -> None:
        """Let go of connections and watchers; what runs goes on running."""

    def suggested_runs(self) -> RunsAtOnce:
        """Say how many Runs under way at once suit it, where no limit has been set.

        Asked before `open` too, and by processes without rights on it: it looks at nothing that
        needs them.
        """

    async def require_room(self) -> None:
        """Raise StorageFull, naming the disk, while there is too little room to begin anything new.

        A back-end that cannot know raises nothing.
        """

    async def create_volume(self, volume: Volume) -> None:
        """Make an empty volume. There already: left as it is, with its content."""

    async def delete_volume(self, volume: Volume) -> None:
        """Remove a volume and its content. Gone already: fine."""

    async def launch(self, pod: RunPod) -> None:
        """Start the run pod; its volumes exist (though they need not be bound yet).

        There already under that name, running or ended: nothing happens. A command or an image
        that does not exist is an outcome of the pod, not an error of this call.
        Raises BackendRejected when the pod can never be made (e.g. an invalid resource name).
        """

    async def observe(self, pod_name: str) -> Observation:
        """Say how the run pod is now, from the source itself (no cache)."""

    def watch(self, pod_name: str) -> AsyncIterator[Observation]:
        """Yield the present observation at once, then each change, without end.

        Level-triggered: between two yields several changes may be folded into the last one, and a
        missed notification costs at most the adapter's re-read interval. Raises
        BackendUnavailable when the source does not answer for long. Cancelling it is safe.
        """

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Have the run pod killed (after `grace`) and removed; once gone it is observed ABSENT."""

    async def release(self, pod_name: str) -> None:
        """Remove an ended run pod's object; its volumes stay. Gone already: fine."""

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Open a door to a volume, or find it open.

        Raises TransferNotReady (a BackendUnavailable sibling) when it needs more time: call again.
        Raises DataExists for a WRITE transfer into a volume with content.
        """

    async def close_transfer(self, transfer: Transfer) -> None:
        """Close the door for good. Closed already: fine."""

    async def run_pods(self) -> list[str]:
        """Names of all run pods that exist, running or ended; for housekeeping."""
