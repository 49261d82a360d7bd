"""The compute contract: what knit requires of the place where run pods and volumes live.

It is stated as behaviour; every adapter (memory, local, Kubernetes) passes the same suite
(`tests/contract/compute`):

* Every call may be repeated with the same arguments and finds what exists already; it may be
  interrupted half-way and called again. Nothing is ever started twice under one pod name.
* Calls return at once: they request a state and do not wait until it is reached; `watch` waits.
* What is gone is not an error: `observe` says `Phase.ABSENT`, `stop` and `release` succeed.
* A failure that may pass raises `BackendUnavailable`, a lasting one `BackendRejected`.
* A volume of others, as `adoptable` names it, is only ever read: containers see it read-only, it is
  opened to be read, and nothing changes or deletes anything in it; who asks for that is refused
  with `BackendRejected`.
* How the user's container ends is an outcome (an `Exit` in an `Observation`), never an exception.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from knit_workflows.domain.plans.model import NodeRule
from knit_workflows.domain.plans.options import NO_POD_OPTIONS, PodOptions
from knit_workflows.domain.runs.milestones import Timeline
from knit_workflows.domain.runs.run import Exit
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions


@dataclass(frozen=True, slots=True)
class RunPod:
    """Everything needed to start a Run's container.

    `name` is from `names.run_pod` and unique per (Run, generation). `inputs` (one or more, which
    may share a volume) are mounted read-only, `outputs` (any number, each a volume of its own)
    read-write; if an output is not empty at the start, the pod fails and its message names it. The
    container's stdout and stderr, in the order written, become the file `log` in the `log` volume,
    which the container does not see. Empty `entrypoint`/`args` mean the image's. `resources` maps
    names to Kubernetes quantities, which limit the container. `options` are for clusters; elsewhere
    only `shm_size` counts. Launching again (`relaunches`) is knit's, not theirs.
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
    options: PodOptions = NO_POD_OPTIONS
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Launch:
    """What a back-end warns of, as sentences, and the options with which the pod was made.

    Only the call that creates the pod learns of warnings. The options are those of the Plan and of
    the installation together; empty where a back-end knows none.
    """

    warnings: tuple[str, ...] = ()
    options: PodOptions = NO_POD_OPTIONS


class Phase(StrEnum):
    """The lifecycle phase of a run pod."""

    ABSENT = "absent"
    """Nothing of it exists: never launched, or completely gone and unable to write any more."""
    PENDING = "pending"
    """It exists; the user's container has not started."""
    RUNNING = "running"
    """The user's container has started."""
    SUCCEEDED = "succeeded"
    """It succeeded and its log is complete; `exit` is set."""
    FAILED = "failed"
    """It failed and its log is complete; `exit` is set, its message names the container."""


MANY_RUNS: Final = 500
"""Concurrent Runs for a back-end with a scheduler of its own: enough to keep it busy."""

ENDED = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class StartFailureKind(StrEnum):
    """Why a pending pod does not start; decides which deadline applies."""

    IMAGE = "image"
    """The image cannot be pulled or run: invalid name, not found, denied. Short deadline."""
    TRANSIENT = "transient"
    """A mount, network or sandbox fails, which often passes. Long deadline."""
    UNSCHEDULABLE = "unschedulable"
    """No node, or no quota, has capacity for it. No deadline."""
    REFUSED = "refused"
    """A rule of the cluster forbids it, and only a change of the rule could mend that. Short
    deadline."""
    BACKEND = "backend"
    """What would start it does not respond. No deadline."""
    PROGRESS = "progress"
    """Not a failure: work in progress that takes its time, such as pulling the image."""


@dataclass(frozen=True, slots=True)
class StartFailure:
    """What keeps a pending pod from starting: `reason` is one CamelCase word, `message` a sentence.

    It is observed as soon as it is known, and again when it changes. Counters (attempts, seconds)
    change the message at most, never the kind or the reason.
    """

    kind: StartFailureKind
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """A run pod as it is now. `exit` is set iff the phase is SUCCEEDED or FAILED.

    `image_digest` is that of the image that was really used, as `image_that_ran` writes it.
    `timeline` holds the milestones (UTC) that the back-end knows of; `ENDED` once the user's
    container has ended, as far as it ever started.
    `notes` are sentences about a pod that has ended, which its exit does not tell: what of its
    outputs cannot be kept (at most one per output, in path order, first), then what else users
    should know of how it ended. They are best effort and may be missing.

    `lingering`: the outcome is known, but other containers of the pod still run, so `stop` it
    before its outputs are final. `oom_killed`: a process of the user's container was killed for
    memory, and the container succeeded all the same. `disruption` is why the pod was taken away
    through no fault of the program's (evicted, preempted, lost with its node, …), which may then be
    run again; of a RUNNING one, why it is just being taken away. Otherwise it is empty.
    """

    phase: Phase
    exit: Exit | None = None
    start_failure: StartFailure | None = None
    image_digest: str | None = None
    timeline: Timeline = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()
    lingering: bool = False
    oom_killed: bool = False
    disruption: str = ""

    def __post_init__(self) -> None:
        # Programs write some of it; no database can hold a NUL.
        if any("\0" in text for text in (*self.notes, self.disruption)):
            notes = tuple(text.replace("\0", " ") for text in self.notes)
            object.__setattr__(self, "notes", notes)
            object.__setattr__(self, "disruption", self.disruption.replace("\0", " "))


def oom_note() -> str:
    """Gives the note on a pod that is `oom_killed`."""
    return (
        "(container main) OOMKilled: a process of it was killed for memory, although it ended with "
        "exit code 0; if that matters, raise the memory of the Plan"
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """What a back-end says of a pod that it has not started; each part is a list of sentences.

    `refusals`: why it would never start; without any, it would be accepted. `warnings`: what the
    back-end objects to, or could not do at this moment. `unchecked`: what only a launch can tell.
    """

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


class TransferMode(StrEnum):
    """The direction of a transfer."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Access to one volume for a while; `name` is from `names.transfer`, unique per transfer.

    `token` is the secret that the endpoint requires; after `idle` without use it may close itself.
    A WRITE transfer needs an existing, empty volume.
    """

    name: str
    volume: Volume
    mode: TransferMode
    token: str
    idle: timedelta = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of an open transfer.

    `url` is `file:///absolute/folder` (the caller uses the folder directly) or
    `http://host:port/`, spoken to as `knit_workflows.pod.agent` says, with the transfer's token.
    """

    url: str


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How many Runs at once suit a back-end.

    `throttled`: while a user who shares the machine with them waits for a transfer or a stop (None:
    no user does, so they are never throttled); `short`: while nobody waits, and Runs are short.
    """

    usual: int
    throttled: int | None
    short: int

    @classmethod
    def always(cls, count: int) -> RunLimits:
        """Gives limits that do not adapt."""
        return cls(count, None, count)

    def at_most(self, limit: int) -> RunLimits:
        """Gives the limits that an operator has set, which throttling still lowers."""
        throttled = None if self.throttled is None else min(self.throttled, limit)
        return RunLimits(limit, throttled, limit)


@dataclass(frozen=True, slots=True)
class WarmPool:
    """So many volumes wait for uploads, each with an open transfer.

    `kind` is equal for volumes of which one is as good as another.
    """

    count: int
    kind: str


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume of knit's that exists; `created_at` is None where that is not known.

    `origin`: what was kept beside it, if that was asked for.
    """

    name: str
    created_at: datetime | None = None
    origin: str = ""


class ComputeBackend(Protocol):
    """Runs containers to their end and keeps volumes; see the module for how calls behave."""

    async def open(self) -> None:
        """Connects; called once per process, before anything else."""

    async def aclose(self) -> None:
        """Closes connections and watches; run pods go on."""

    def suggested_runs(self) -> RunLimits:
        """Suggests how many Runs to have active at once when no limit is set.

        Also called before `open`, and by processes without rights on the back-end.
        """

    def is_at_hand(self) -> bool:
        """Says whether a launch takes moments at most, since nothing remote has to answer.

        Called as `suggested_runs` is.
        """

    def warm_pool(self) -> WarmPool | None:
        """Gives how many volumes are to wait for uploads; None where opening one takes no time."""

    async def require_room(self) -> None:
        """Raises StorageFull, naming the disk, while there is too little space for anything new.

        A back-end that cannot know returns.
        """

    async def create_volume(self, volume: Volume) -> VolumeOptions:
        """Creates an empty volume; an existing one is left as it is, with its content.

        Gives how the volume that is there was asked for, whoever said so; empty where a back-end
        knows no such options.
        """

    async def delete_volume(self, volume: Volume) -> None:
        """Deletes a volume and its content; a missing one is fine."""

    async def missing_volumes(self, volumes: Sequence[Volume]) -> list[Volume]:
        """Gives those of these volumes, all of which were made, that somebody has deleted since.

        Also those that are only kept until the last pod that mounts them has ended.
        """

    async def adoptable(self, name: str) -> str:
        """Gives the name of a volume of others if it may become a Data; reads none of its content.

        Two names of one volume give the same one, as far as the back-end can know.

        Raises:
            VolumeRefused: there is no such volume, it cannot be read, or it is knit's own.
        """

    async def require_bound(self, volume: Volume, *, within: timedelta) -> None:
        """Returns once a volume that an importer has made under a name of knit's can be mounted.

        Raises:
            VolumeRefused: it is missing, or still not bound after `within`.
        """

    async def measure_volume(self, volume: Volume) -> int | None:
        """Gives the bytes that a volume takes up where it is kept; None if that cannot be known.

        Or not within a few seconds, or if there is no such volume.
        """

    async def launch(self, pod: RunPod) -> Launch:
        """Starts the run pod; its volumes exist (though they need not be bound yet).

        If a pod of that name exists, running or ended, nothing happens. A missing command or image
        is an outcome of the pod, not an error of this call.

        Raises:
            BackendRejected: the pod can never be created, e.g. for an invalid resource name.
        """

    async def try_launch(self, pod: RunPod) -> Trial:
        """Says what would become of a pod and of its new volumes, without starting it.

        Nothing is left behind, and nothing of the pod need exist: no volume of it does.
        """

    async def observe(self, pod_name: str) -> Observation:
        """Observes the run pod at the source (no cache)."""

    def watch(self, pod_name: str) -> AsyncIterator[Observation]:
        """Yields the present observation at once, then each change, without end.

        Level-triggered: several changes may be yielded as one, and a missed notification costs at
        most the adapter's resync period. Cancelling it is safe.

        Raises:
            BackendUnavailable: the source has not responded for long.
        """

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Has the run pod killed (after `grace`) and removed; then it is observed as ABSENT."""

    async def release(self, pod_name: str) -> None:
        """Removes the object of an ended run pod; its volumes stay. A missing one is fine."""

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Opens a transfer, or finds it open.

        Raises:
            TransferNotReady: it needs more time; call again.
            DataExists: a WRITE transfer into a volume with content.
        """

    async def close_transfer(self, transfer: Transfer) -> None:
        """Closes the transfer for good; a closed one is fine."""

    def own_volumes(self, *, with_origins: bool = False) -> AsyncGenerator[FoundVolume, None]:
        """Yields the volumes of knit's own that exist, in no order; for comparisons.

        It holds a page of them at a time. One that is being deleted may be among them, unless
        origins are asked for.
        """

    async def run_pods(self) -> list[str]:
        """Gives the names of all run pods that exist, running or ended; for reconciliation."""
