"""What activities and the API ask of the store; the one adapter is `knit_workflows.store`.

Every write is one short transaction that also holds the history row (`run_event`) and the outbox
row of whatever must follow it. Every call raises StoreUnavailable when the database does not
answer. A Run is addressed by (run id, generation); an older generation raises Superseded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.data import (
    Adopted,
    Adoption,
    DataDetail,
    DataQuery,
    Purge,
    TagChange,
)
from knit_workflows.domain.hooks import (
    DeliveryQuery,
    HookAnswer,
    HookDelivery,
    HookPhase,
    Hooks,
    Transition,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.imports import Import, ImportTimes, SigningKey
from knit_workflows.domain.lineage import Lineage, LineageGraph
from knit_workflows.domain.plans.model import (
    AnnotationChange,
    Image,
    NodeRule,
    PlanDetail,
    PlanPreview,
    PlanQuery,
    PlanSpec,
    ResourceChange,
)
from knit_workflows.domain.runs import (
    KNIT,
    USER,
    Exit,
    PendingReason,
    RunDetail,
    RunEvent,
    RunQuery,
    RunStatus,
)
from knit_workflows.domain.volumes import Mount, Volume


@dataclass(frozen=True, slots=True)
class RunKey:
    """One execution of a Run."""

    run_id: RunId
    generation: int


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that is needed to carry out a Run, as the store has it now.

    Inputs (one or more) and outputs (none or more) in path order; `log` is the volume for the log.
    """

    key: RunKey
    status: RunStatus
    plan_id: PlanId
    image: Image | None
    entrypoint: tuple[str, ...]
    args: tuple[str, ...]
    inputs: tuple[Mount, ...]
    outputs: tuple[Mount, ...]
    log: Volume | None
    resources: Mapping[str, str]
    on_node: tuple[NodeRule, ...]
    service_account: str | None
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the Before hooks want in the container's environment, until its pod is there."""
    hooked: bool = False
    """Whether hooks are in force."""


@dataclass(frozen=True, slots=True)
class StartableRun:
    """An admitted Run whose workflow has not been started: what its start needs to know."""

    key: RunKey
    plan_id: PlanId
    image: str
    command: tuple[str, ...]
    """Entrypoint and args as the Plan gives them; empty: the image's own."""
    input_ids: tuple[KnitId, ...]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A user's stop on its way to the Run's workflow; `event_id` closes it."""

    event_id: int
    key: RunKey
    fail: bool


@dataclass(frozen=True, slots=True)
class Projection:
    """What one step of projection did: the kind of event, and how many Runs it created."""

    event_kind: str
    created: int


ADMITTED_AT_ONCE: Final = 64
"""Runs admitted by one call at most: the first of a flood start while the others are chosen."""
THROTTLE_FOR: Final = timedelta(seconds=2)
"""How long Runs are throttled after a user began to wait: one push often follows another."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many Runs may be under way (ready … aborting) at once; `per_plan` None: no such limit.

    Pending Runs are not counted in `total`; with them ten times as many, or 500, may be under way,
    but of one Plan no more than `total` in any case.

    Once `total` Runs have ended within two seconds, `short` is the limit, if it is larger: short
    Runs spend most of their time waiting for their next step.

    `held` says why no Run is to be admitted now, however few there are; empty: nothing prevents it.
    """

    total: int = 500
    per_plan: int | None = None
    held: str = ""
    short: int = 0


@dataclass(frozen=True, slots=True)
class UsedResources:
    """What a Run was really given, recorded when its pod is launched."""

    resources: Mapping[str, str]
    service_account: str | None


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """An open transfer of one Data; `endpoint` is empty until the back-end has opened it."""

    transfer_id: str
    knit_id: KnitId
    run_id: RunId
    volume: str
    mode: str
    token: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """A volume whose Data was discarded by a retry or deletion; nothing refers to it any more."""

    knit_id: KnitId
    volume: str


@dataclass(frozen=True, slots=True)
class UnfinishedImport:
    """An import that nobody ends any more."""

    key: RunKey
    status: RunStatus


class DataStore(Protocol):
    """Looks Data up and changes their tags."""

    async def find(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        """Lists Data by timestamp (those without one last), then id.

        At most `limit`, after the cursor (or id) `after`.

        Raises:
            InvalidRequest: `after` is not a cursor, or there is no Data of that id.
        """

    async def get(self, knit_id: KnitId) -> DataDetail:
        """Looks one Data up; raises DataNotFound."""

    async def change_tags(self, knit_id: KnitId, change: TagChange) -> DataDetail:
        """Removes tags, then adds tags; if the Data is done, Runs that this makes possible follow.

        Idempotent.

        Raises:
            DataNotFound: there is no such Data.
        """

    async def purge(self, knit_id: KnitId, *, actor: str = USER, dry_run: bool = False) -> Purge:
        """Discards the content of a Data; its tags, its history and lineage stay.

        It is never used for new Runs again. A second call changes nothing. `dry_run` changes
        nothing either, and raises the same.

        Raises:
            DataNotFound: there is no such Data.
            IllegalMove: it is being made, or read by a Run that has not ended or by a transfer.
        """


class AdoptionStore(Protocol):
    """Makes Data of volumes that knit did not create and will never change or delete."""

    async def known(self, volumes: Sequence[str]) -> Mapping[str, KnitId]:
        """Gives those of these volumes that are Data already; a purged Data counts no more."""

    async def adopt(self, adoptions: Sequence[Adoption], *, actor: str = USER) -> Sequence[Adopted]:
        """Makes each volume a Data, with its tags, in one transaction; gives them in this order.

        The Run of each is of `knit#imported`, and done from the beginning; Runs that this makes
        possible follow. A volume that is a Data already stays that Data, and gets the tags that it
        lacks: a second call changes nothing.

        Raises:
            InvalidRequest: see `check_adoptions`.
            VolumeRefused: one of them is knit's own.
        """


class ImportStore(Protocol):
    """Records imports, and keeps the keys that sign their tokens.

    A key is never told to anybody but the processes that sign and verify.
    """

    async def begin(self, *, actor: str = USER) -> Import:
        """Makes the Run of an import (running), and its Data; a second call makes others."""

    async def require_open(self, begun: Import, *, window: timedelta) -> None:
        """Returns if an import can be ended now; raises ImportOver."""

    async def end(self, begun: Import, *, window: timedelta, actor: str = USER) -> None:
        """Makes the Run of an import completing: its volume is there.

        Raises:
            ImportOver: it has been ended before, began longer ago than `window`, or is gone.
        """

    async def finish(self, begun: Import) -> None:
        """Makes the Run of an ended import done, with lineage; a second call changes nothing.

        While hooks are in force a workflow does, once they agree.

        Raises:
            IllegalMove: it has not been ended.
            RunNotFound: it has been deleted.
        """

    async def signing_key(self, times: ImportTimes) -> SigningKey:
        """Gives the key that signs now, making one if there is none that is young enough.

        Processes that ask at once get the same.
        """

    async def find_key(self, kid: str) -> SigningKey | None:
        """Gives a key by its name, however old; None if it is not known (any more)."""


class PlanStore(Protocol):
    """Registers Plans, looks them up and changes them.

    Changes raise PlanNotFound for built-in Plans too.
    """

    async def register(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        """Registers a Plan; the Runs that existing Data make possible follow.

        Raises:
            EquivalentPlan: the same Plan is registered already; `see` is its id.
            CyclicPlans: it would feed itself, perhaps through other Plans.
            TooManyRuns: it would create more than `new_runs_limit` Runs at once (None: no limit).
        """

    async def preview(self, spec: PlanSpec, *, limit: int) -> PlanPreview:
        """Says which Runs a Plan would create now, at most `limit` of them one by one.

        Nothing is registered.

        Raises:
            EquivalentPlan: the same Plan is registered already; `see` is its id.
            CyclicPlans: it would feed itself, perhaps through other Plans.
        """

    async def find(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        """Lists Plans by id, built-in ones included; at most `limit`, after the id `after`."""

    async def get(self, plan_id: PlanId) -> PlanDetail:
        """Looks one Plan up; raises PlanNotFound."""

    async def set_active(self, plan_id: PlanId, active: bool, *, actor: str = USER) -> PlanDetail:
        """Activates or deactivates a Plan. Raises PlanNotFound.

        Its Runs move waiting ⇄ deactivated.
        """

    async def change_resources(self, plan_id: PlanId, change: ResourceChange) -> PlanDetail:
        """Unsets, then sets; without `cpu` or `memory` their defaults apply. For later launches.

        Raises:
            PlanNotFound: there is no such Plan of a user's.
            InvalidQuantity: a value is not a Kubernetes quantity.
        """

    async def change_annotations(self, plan_id: PlanId, change: AnnotationChange) -> PlanDetail:
        """Removes annotations, then adds some; idempotent. Raises PlanNotFound."""

    async def set_service_account(self, plan_id: PlanId, name: str | None) -> PlanDetail:
        """Sets it for later launches; None: the default one. Raises PlanNotFound."""

    async def set_priority(self, plan_id: PlanId, priority: int) -> PlanDetail:
        """Sets the priority of its Runs: of those that wait and those to come. Raises PlanNotFound.

        Interrupted half-way, a second call completes it.
        """


class RunStore(Protocol):
    """Looks Runs up; requests, stops, retries and deletes them."""

    async def find(
        self, query: RunQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[RunDetail]:
        """Lists Runs by time of their last change, then id; invalidated ones only when asked for.

        At most `limit`, after the cursor (or id) `after`.

        Raises:
            InvalidRequest: `after` is not a cursor, or there is no Run of that id.
        """

    async def get(self, run_id: RunId) -> RunDetail:
        """Looks one Run up, invalidated or not; raises RunNotFound."""

    async def events(self, run_id: RunId) -> Sequence[RunEvent]:
        """Lists every change of its status, oldest first; raises RunNotFound."""

    async def stop(self, run_id: RunId, *, fail: bool, actor: str = USER) -> RunDetail:
        """Marks a Run aborting (`fail`) or completing, records its exit and requests its stop.

        A second call with the same `fail` changes nothing.

        Raises:
            RunNotFound: there is no such Run.
            IllegalMove: its status does not allow it, as `MOVES` says.
        """

    async def retry(self, run_id: RunId, *, actor: str = USER) -> RunDetail:
        """Runs a done or failed Run once more: next generation, new output Data.

        It is waiting again, or deactivated under an inactive Plan. Its previous outputs are
        discarded.

        Raises:
            RunNotFound: there is no such Run, or it has been deleted.
            IllegalMove: it has not finished, is an upload, its outputs are in use, or an input was
                purged.
        """

    async def delete(self, run_id: RunId, *, actor: str = USER) -> Sequence[str]:
        """Deletes a Run that is waiting, deactivated, done or failed, and discards its outputs.

        One with inputs leaves a tombstone (invalidated), so that it never runs again; an upload
        vanishes. Gives the volumes that stay, because knit has only adopted them.

        Raises:
            RunNotFound: there is no such Run, or it has been deleted.
            IllegalMove: it has not finished, or its outputs are in use.
        """

    async def ensure(self, plan_id: PlanId, inputs: Mapping[str, KnitId]) -> RunKey:
        """Gives the Run of a Plan with exactly these inputs (path → Data), creating it if need be.

        Raises:
            PlanNotFound: there is no such Plan.
            DataNotFound: one of the Data does not exist.
            InvalidRequest: a path is missing or unknown, or a Data does not satisfy its input.
        """

    async def wait_final(self, run_id: RunId, *, fallback: timedelta) -> RunDetail:
        """Waits for a notification that the Run is final, re-reading it every `fallback`.

        Raises:
            RunNotFound: there is no such Run, or it has been deleted.
        """


class LineageStore(Protocol):
    """Walks the graph of Data and Runs."""

    async def get(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> Lineage:
        """Gives what a Data came from and what was made of it, so many Runs deep (None: all).

        Raises:
            DataNotFound: there is no such Data.
            TooLarge: there are more than `limit` Data or Runs.
        """

    async def graph(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> LineageGraph:
        """Gives the same as ids alone, some thirty times faster; raises the same."""


class CompletionStore(Protocol):
    """Completes ids and tags on a command line."""

    async def find(self, noun: Noun, prefix: str, *, limit: int) -> Sequence[Completion]:
        """Gives at most `limit` ids, tags or keys that begin with `prefix`.

        Without a prefix the newest ids come first, otherwise all are ordered by value; tags and
        keys are taken from the 100,000 newest tags. Takes the same time however many there are.
        """


class RunExecutionStore(Protocol):
    """Moves a Run from step to step. Every call may be repeated.

    Every call raises RunNotFound, and Superseded when the Run has a later generation.
    """

    async def spec(self, key: RunKey) -> RunSpec:
        """Gives everything needed to launch a Run."""

    async def advance(
        self,
        key: RunKey,
        target: RunStatus,
        *,
        cause: str,
        exit: Exit | None = None,
        image_digest: str | None = None,
        used: UsedResources | None = None,
        notes: Sequence[str] = (),
        actor: str = KNIT,
        hooks_called: bool = True,
    ) -> RunStatus:
        """Moves a Run to `target` if that is legal from its status; gives its status afterwards.

        The same target again, or one that is no longer legal (e.g. because the user stopped the Run
        meanwhile), changes nothing: callers look at the status they get. `exit` and `notes`
        (sentences about its outputs) are recorded only with a real move. Not for final statuses:
        see `finalize`.

        Raises:
            HooksNotCalled: the move is legal, but hooks are in force and not `hooks_called`.
        """

    async def hold_up(self, key: RunKey, reason: PendingReason | None, *, at: RunStatus) -> bool:
        """Records why a Run does not start, or does not end; None: nothing keeps it any longer.

        Changes nothing unless its status is `at`, nor if kind and code are those on record. Every
        real move of the Run clears the reason. Tells whether it was news, which goes into the Run's
        history: another kind or code than before, up to a bound per generation.
        """

    async def finalize(self, key: RunKey, *, cause: str, hooks_called: bool = True) -> RunStatus:
        """Makes a completing Run done and an aborting one failed; gives the final status.

        One transaction: status, timestamp of every output and log Data, run_event, and for a done
        Run one outbox event per Data. A second call changes nothing and gives the same.

        Raises:
            IllegalMove: the Run is neither.
            HooksNotCalled: hooks are in force, and not `hooks_called`.
        """

    async def finish(self, key: RunKey, *, cause: str) -> RunStatus:
        """Finalizes a Run that has no workflow; gives its status afterwards.

        While hooks are in force it is admitted instead: its workflow calls them, and finalizes it.

        Raises:
            IllegalMove: the Run is neither completing nor aborting.
        """


class HookStore(Protocol):
    """Knows the hooks in force, and keeps the record of their deliveries."""

    async def hooks(self) -> Hooks:
        """Gives the hooks in force, which every process follows."""

    async def configure(self, hooks: Hooks) -> bool:
        """Puts these hooks in force; tells whether they differ from those before."""

    async def report(self, problem: str | None) -> None:
        """Records why the newest hooks file was refused; None: it is in force."""

    async def problem(self) -> str | None:
        """Gives what was reported last."""

    async def begin(self, transition: Transition, phase: HookPhase, url: str) -> int | None:
        """Records that a hook is about to be called; gives the number of this attempt, from 1.

        None: do not call it. An After hook has been claimed before, whether or not it was called
        then; a Before hook has been skipped by a user.

        Raises:
            RunNotFound: the Run has been deleted.
            Superseded: it has been retried.
        """

    async def ended(
        self,
        transition: Transition,
        phase: HookPhase,
        url: str,
        answer: HookAnswer,
        *,
        attempt: int,
        next_in: timedelta | None = None,
    ) -> None:
        """Records how an attempt has ended, and when the hook is called again (None: it is not).

        Changes nothing if the delivery has been skipped or attempted again meanwhile (the worker of
        the first attempt was taken for dead), or is gone with its Run.
        """

    async def keep_environment(
        self, transition: Transition, environment: Mapping[str, str]
    ) -> None:
        """Keeps what the Before hooks want in the container's environment until its pod is there.

        Replaces what was kept before. Changes nothing if the Run has gone on meanwhile.
        """

    async def find(
        self, query: DeliveryQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[HookDelivery]:
        """Lists deliveries by the time of their last call, newest first, then id.

        At most `limit`, after the cursor `after`.

        Raises:
            InvalidRequest: `after` is not a cursor.
            RunNotFound: there is no Run of the id in the query.
        """

    async def skip(self, delivery_id: str, *, actor: str, reason: str) -> HookDelivery:
        """Lets a transition go on without this Before hook; recorded in the Run's history too.

        A second call changes nothing.

        Raises:
            DeliveryNotFound: there is no such delivery.
            IllegalMove: it is an After hook's, or it has succeeded, or its transition is over.
        """


class TransferStore(Protocol):
    """Records uploads and downloads."""

    async def announce(self) -> None:
        """Throttles Runs for `THROTTLE_FOR`, since a user begins to wait for a transfer.

        Nothing is stored. Callers that go on waiting repeat it.
        """

    async def begin_upload(
        self, transfer_id: str, run_id: RunId, knit_id: KnitId
    ) -> TransferRecord:
        """Makes the Run of `knit#uploaded` (running), its Data, and the transfer's row.

        The ids come from the caller; the same ids again give the same record.

        Raises:
            NotFound: the transfer has been closed already, or its Data is being deleted.
            DataExists: the Data belongs to another transfer.
        """

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        """Makes the row of a READ transfer, or finds it.

        Raises:
            DataNotFound: there is no such Data, or its content was purged.
        """

    async def get(self, transfer_id: str) -> TransferRecord:
        """Gives a transfer; raises NotFound."""

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        """Records the transfer's endpoint. Closed meanwhile: changes nothing."""

    async def closed(self, transfer_id: str) -> None:
        """Removes the transfer's row. A second call changes nothing."""


class ProjectionStore(Protocol):
    """Turns commits into Runs."""

    async def project(self, *, page_size: int) -> Projection | None:
        """Takes one outbox event and creates the Runs it means.

        One transaction per call; events that other processes hold are skipped. An event that means
        more than `page_size` Runs keeps its position and is taken again. None: no event is waiting.
        """

    def wake_ups(self, *, fallback: timedelta) -> AsyncGenerator[None, None]:
        """Yields at once, then whenever there may be work: on NOTIFY, or after `fallback`."""


class AdmissionStore(Protocol):
    """Decides which Runs are started, and hands out the stops to deliver."""

    async def admit(self, limits: AdmissionLimits) -> Sequence[StartableRun]:
        """Admits waiting Runs of active Plans up to the limits, at most `ADMITTED_AT_ONCE`.

        Higher priority first, then those of the Plan with fewer Runs under way, then older ones.
        Gives all admitted Runs whose workflow is not known to have been started, including those
        that were admitted by a process that has died. Callers repeat it until it gives none.
        """

    async def started(self, keys: Sequence[RunKey]) -> None:
        """Records that the workflows of these Runs exist."""

    async def stop_requests(self) -> Sequence[StopRequest]:
        """Gives the stops to deliver, oldest first; only of Runs with a started workflow."""

    async def close_event(self, event_id: int) -> None:
        """Removes a delivered event. A second call changes nothing."""

    async def finish_unstarted(self) -> int:
        """Finalizes aborting Runs that were never admitted; gives how many.

        While hooks are in force it admits them instead: their workflows call the hooks.
        """

    def throttled(self) -> bool:
        """Says whether a user began to wait within `THROTTLE_FOR`: for a transfer, or for a stop.

        Known only while `ProjectionStore.wake_ups` is iterated; until it is known: yes.
        """


class HousekeepingStore(Protocol):
    """Finds what to collect and reconcile; gives nothing younger than `older_than`."""

    async def discarded(self, *, older_than: timedelta, limit: int) -> Sequence[Discarded]:
        """Gives volumes to delete, in the order in which they were discarded."""

    async def collected(self, knit_ids: Sequence[KnitId]) -> None:
        """Records that these volumes are gone. A second call changes nothing."""

    async def under_way(
        self, *, older_than: timedelta, after: RunId | None, limit: int
    ) -> Sequence[StartableRun]:
        """Gives unfinished Runs whose workflow was started and that have not changed lately.

        At most `limit`, by id, after the id `after`.
        """

    async def over(self, keys: Sequence[RunKey], *, older_than: timedelta) -> frozenset[RunKey]:
        """Selects the executions whose Run is final or in a later generation.

        Runs that do not exist are left out: they may belong to another installation.
        """

    async def unfinished_imports(
        self, *, window: timedelta, older_than: timedelta, limit: int
    ) -> Sequence[UnfinishedImport]:
        """Gives imports that were not ended within `window`, and those that only lack their end.

        The latter are completing or aborting, and have been for `older_than`.
        """

    async def stale_transfers(self, *, older_than: timedelta) -> Sequence[TransferRecord]:
        """Gives all transfers that were opened some time ago, oldest first."""


class ApiStore(Protocol):
    """What the API asks of the store."""

    @property
    def data(self) -> DataStore: ...  # noqa: D102
    @property
    def adoptions(self) -> AdoptionStore: ...  # noqa: D102
    @property
    def imports(self) -> ImportStore: ...  # noqa: D102
    @property
    def plans(self) -> PlanStore: ...  # noqa: D102
    @property
    def runs(self) -> RunStore: ...  # noqa: D102
    @property
    def lineage(self) -> LineageStore: ...  # noqa: D102
    @property
    def completions(self) -> CompletionStore: ...  # noqa: D102
    @property
    def transfers(self) -> TransferStore: ...  # noqa: D102
    @property
    def hooks(self) -> HookStore: ...  # noqa: D102

    async def ping(self) -> None:
        """Returns if the database answers."""

    async def aclose(self) -> None:
        """Closes all connections."""


class Store(ApiStore, Protocol):
    """All of it."""

    @property
    def execution(self) -> RunExecutionStore: ...  # noqa: D102
    @property
    def projection(self) -> ProjectionStore: ...  # noqa: D102
    @property
    def admission(self) -> AdmissionStore: ...  # noqa: D102
    @property
    def housekeeping(self) -> HousekeepingStore: ...  # noqa: D102

    async def open(self) -> None:
        """Connects; called once per process, before anything else."""
