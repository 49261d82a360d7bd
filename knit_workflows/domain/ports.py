"""What activities and the API ask of the store; the one adapter is `knit_workflows.store`.

Every write is one short transaction that also holds the history row (`run_event`) and the outbox
row of whatever must follow it. Every call raises StoreUnavailable when the database does not
answer. A Run is addressed by (run id, generation); an older generation raises Superseded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.data import DataDetail, DataQuery, TagChange
from knit_workflows.domain.ids import KnitId, PlanId, RunId
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
from knit_workflows.domain.runs import Exit, Holdup, RunDetail, RunEvent, RunQuery, RunStatus


@dataclass(frozen=True, slots=True)
class RunKey:
    """One execution of a Run."""

    run_id: RunId
    generation: int


@dataclass(frozen=True, slots=True)
class MountedData:
    """A Data at a path of a run pod, and the volume that holds it."""

    path: str
    knit_id: KnitId
    volume: str


@dataclass(frozen=True, slots=True)
class RunOrder:
    """All that is needed to carry out a Run, as the store has it now.

    Inputs (one or more) and outputs (none or more) in path order; `log` is the volume for the log.
    """

    key: RunKey
    status: RunStatus
    plan_id: PlanId
    image: Image | None
    entrypoint: tuple[str, ...]
    args: tuple[str, ...]
    inputs: tuple[MountedData, ...]
    outputs: tuple[MountedData, ...]
    log: MountedData | None
    resources: Mapping[str, str]
    on_node: tuple[NodeRule, ...]
    service_account: str | None


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
class StopOrder:
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
ATTENDED_FOR: Final = timedelta(seconds=2)
"""How long Runs stand back after somebody has begun to wait: who has pushed often does so again."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many Runs may be under way (ready … aborting) at once; `per_plan` None: no such limit.

    What is held up is not counted in `total`: ten times as many, or 500, may be under way with it,
    but of one Plan no more than `total` in any case.

    Once `total` Runs have ended within two seconds, `short` is the limit, if it is larger: they
    come and go so quickly that most of them wait for their next step.

    `held` says why none is to be admitted now, however few there are; empty: nothing is in the way.
    """

    total: int = 500
    per_plan: int | None = None
    held: str = ""
    short: int = 0


@dataclass(frozen=True, slots=True)
class UsedResources:
    """What a Run really used, recorded with it when its pod is launched."""

    resources: Mapping[str, str]
    service_account: str | None


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """One open door to a Data: `endpoint` is empty until the back-end has opened it."""

    transfer_id: str
    knit_id: KnitId
    run_id: RunId
    volume: str
    mode: str
    token: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """A volume whose Data was retried or deleted away; nobody can ask for it any more."""

    knit_id: KnitId
    volume: str


class RunStore(Protocol):
    """What carrying out a Run needs."""

    async def run_order(self, key: RunKey) -> RunOrder:
        """Give everything needed to launch. Raises RunNotFound, Superseded."""

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
    ) -> RunStatus:
        """Move a Run to `target` if that is legal from its status, and give its status afterwards.

        The same target again, or a target that is no longer legal (e.g. the user stopped the Run
        meanwhile), changes nothing: callers look at the answer. `exit` and `notes` (sentences
        about its outputs) are recorded only with a real move. Not for final statuses: see
        `finalize`. Raises RunNotFound, Superseded.
        """

    async def hold_up(self, key: RunKey, holdup: Holdup | None, *, at: RunStatus) -> bool:
        """Record what keeps a Run from starting, or from ending (None: nothing any more).

        Changes nothing unless its status is `at`, nor when it is the same kind and code again.
        Every real move of the Run clears it. Gives whether it was news, which is kept in
        the Run's history: another kind or code than before, and not too many of them so far.
        Raises RunNotFound, Superseded.
        """

    async def finalize(self, key: RunKey, *, cause: str) -> RunStatus:
        """Make a completing Run done, an aborting one failed; give the final status.

        One transaction: status, timestamp of every output and log Data, run_event, and for done
        one outbox event per Data. Final already: the same answer, nothing changed.
        Raises IllegalMove when the Run is neither.
        """


class TransferStore(Protocol):
    """What uploads and downloads need."""

    async def begin_upload(
        self, transfer_id: str, run_id: RunId, knit_id: KnitId
    ) -> TransferRecord:
        """Make the Run of `knit#uploaded` (running), its Data, and the transfer's row.

        The ids come from the caller; the same ids again give the same record.
        """

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        """Make the row of a READ transfer. Raises DataNotFound. Again: the same record."""

    async def transfer(self, transfer_id: str) -> TransferRecord:
        """Give a transfer. Raises NotFound."""

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        """Record where the transfer answers."""

    async def closed(self, transfer_id: str) -> None:
        """Remove the transfer's row. Gone already: fine."""


class ProjectorStore(Protocol):
    """What turning commits into Runs needs."""

    async def project(self, *, page_size: int) -> Projection | None:
        """Take one outbox event (skipping those other processes hold), create the Runs it means.

        One transaction per call. An event that means more than `page_size` Runs keeps its cursor
        and is taken again. None: no event is waiting.
        """

    async def admit(self, limits: AdmissionLimits) -> Sequence[StartableRun]:
        """Admit waiting Runs of active Plans up to the limits, at most `ADMITTED_AT_ONCE`.

        Higher priority first; then those of the Plan with fewer Runs under way; then older ones.
        Gives all admitted Runs whose workflow is not known to have been started, those admitted
        earlier (by a process that died since) too.
        """

    async def started(self, keys: Sequence[RunKey]) -> None:
        """Record that these Runs' workflows exist."""

    async def stop_orders(self) -> Sequence[StopOrder]:
        """Give stops to deliver, oldest first; only of Runs whose workflow has been started."""

    async def close_event(self, event_id: int) -> None:
        """Remove a delivered event."""

    async def finish_unstarted(self) -> int:
        """Finalize aborting Runs that never were admitted; gives how many."""

    def attended(self) -> bool:
        """Say whether anybody has called `attend`, or stopped a Run, in the last `ATTENDED_FOR`.

        Known only while `work` goes on; until it is known: yes.
        """

    def work(self, *, fallback: timedelta) -> AsyncGenerator[None, None]:
        """Yield at once, then whenever there may be work: on NOTIFY, or after `fallback`.

        Once nobody is `attended` any more, too.
        """


class HousekeepingStore(Protocol):
    """What tidying up needs; `older_than` keeps it away from what others are just working on."""

    async def discarded(self, *, older_than: timedelta, limit: int) -> Sequence[Discarded]:
        """Give volumes to delete, those discarded first before the others."""

    async def collected(self, knit_ids: Sequence[KnitId]) -> None:
        """Record that these volumes are gone. Recorded already: fine."""

    async def under_way(
        self, *, older_than: timedelta, after: RunId | None, limit: int
    ) -> Sequence[StartableRun]:
        """Give Runs that are not final, whose workflow was started, and that have not changed for
        some time; by id, after the cursor."""

    async def over(self, keys: Sequence[RunKey], *, older_than: timedelta) -> frozenset[RunKey]:
        """Say which of these executions are over: their Run is final or has gone on, for some time.

        Of a Run that is not there at all nothing is said: it may be another installation's.
        """

    async def stale_transfers(self, *, older_than: timedelta) -> Sequence[TransferRecord]:
        """Give all transfers that were opened some time ago, oldest first."""


class CatalogueStore(Protocol):
    """What the API asks and changes. Lists have the orders of the Web API's contract."""

    async def find_data(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        """By timestamp (none last), then id; after the cursor (or an id), at most `limit`."""

    async def data(self, knit_id: KnitId) -> DataDetail:
        """Raises DataNotFound."""

    async def change_tags(self, knit_id: KnitId, change: TagChange) -> DataDetail:
        """Removals first, then additions; idempotent; re-evaluates the Data if it is done."""

    async def register_plan(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        """Raises EquivalentPlan (`see`: its id), CyclicPlans, TooManyRuns (limit None: never)."""

    async def preview_plan(self, spec: PlanSpec, *, most: int) -> PlanPreview:
        """Say which Runs the Plan would create now, at most `most` of them one by one.

        Nothing is registered. Raises EquivalentPlan and CyclicPlans as `register_plan` does.
        """

    async def find_plans(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        """By id; built-in Plans included."""

    async def plan(self, plan_id: PlanId) -> PlanDetail:
        """Raises PlanNotFound."""

    async def set_active(self, plan_id: PlanId, active: bool) -> PlanDetail:
        """Moves all its Runs waiting ⇄ deactivated. Raises PlanNotFound for built-in Plans too."""

    async def change_resources(self, plan_id: PlanId, change: ResourceChange) -> PlanDetail:
        """Unset first, then set; without `cpu` or `memory` their defaults hold. For later launches.

        Raises PlanNotFound for built-in Plans too, InvalidQuantity.
        """

    async def change_annotations(self, plan_id: PlanId, change: AnnotationChange) -> PlanDetail:
        """Removals first, then additions; idempotent. Raises PlanNotFound, built-in ones too."""

    async def set_service_account(self, plan_id: PlanId, name: str | None) -> PlanDetail:
        """For later launches; None: none. Raises PlanNotFound for built-in Plans too."""

    async def set_priority(self, plan_id: PlanId, priority: int) -> PlanDetail:
        """Its waiting Runs, and those to come, go before those of a lower priority.

        Raises PlanNotFound for built-in Plans too.
        """

    async def lineage(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> Lineage:
        """Give what a Data came from and what came of it, so many Runs deep (None: all).

        Raises DataNotFound, TooLarge beyond `limit` Data or Runs.
        """

    async def lineage_graph(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> LineageGraph:
        """Give the same part of the graph as ids alone; for large ones."""

    async def completions(self, noun: Noun, prefix: str, *, limit: int) -> Sequence[Completion]:
        """Give at most so many ids, tags or keys that begin like this, at once however many."""

    async def find_runs(
        self, query: RunQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[RunDetail]:
        """By time of the last change, then id. Invalidated Runs only when asked for."""

    async def run(self, run_id: RunId) -> RunDetail:
        """Raises RunNotFound. Invalidated Runs are given too."""

    async def run_events(self, run_id: RunId) -> Sequence[RunEvent]:
        """Every change of status, oldest first."""

    async def stop(self, run_id: RunId, *, fail: bool) -> RunDetail:
        """Mark a Run aborting (fail) or completing, record the exit, order its execution to stop.

        Raises IllegalMove as the stop matrix says. While it is so already: changes nothing.
        """

    async def retry(self, run_id: RunId) -> RunDetail:
        """Carry out a done or failed Run once more: next generation, new output Data.

        Waiting again, or deactivated under an inactive Plan. Its former outputs are discarded.
        Raises RunNotFound (for a deleted one too), IllegalMove as `spec/run-lifecycle.md` §5 says.
        """

    async def delete_run(self, run_id: RunId) -> None:
        """Delete a Run that is waiting, deactivated, done or failed, and discard its outputs.

        One with inputs leaves a tombstone (invalidated), so that it never runs again; an upload
        vanishes. Raises RunNotFound (for a deleted one too), IllegalMove.
        """

    async def ensure_run(self, plan_id: PlanId, inputs: Mapping[str, KnitId]) -> RunKey:
        """Give the Run of exactly these inputs (path → Data), creating it when there is none.

        Raises PlanNotFound, DataNotFound, InvalidRequest when a path is missing, unknown, or the
        Data does not satisfy it.
        """

    async def wait_final(self, run_id: RunId, *, fallback: timedelta) -> RunDetail:
        """Wait until the Run is final; by NOTIFY, re-read every `fallback`."""

    async def attend(self) -> None:
        """Tell every process that somebody begins to wait for a transfer."""

    async def ping(self) -> None:
        """Answer when the database does."""


class Store(RunStore, TransferStore, ProjectorStore, HousekeepingStore, CatalogueStore, Protocol):
    """All of it."""

    async def open(self) -> None:
        """Connect; nothing is opened before. Called once per process."""

    async def aclose(self) -> None:
        """Close all connections."""
