"""What activities and the API ask of the store; the one adapter is `knit_workflows.store`.

Every write is one short transaction that also holds the history row (`run_event`) and the outbox
row of whatever must follow it. Every call raises StoreUnavailable when the database does not
answer. A Run is addressed by (run id, generation); an older generation raises Superseded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from knit_workflows.domain.data import DataDetail, DataQuery, TagChange
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans import Image, NodeRule, PlanDetail, PlanQuery, PlanSpec
from knit_workflows.domain.runs import Exit, RunDetail, RunEvent, RunQuery, RunStatus


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


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many Runs may be under way (ready … aborting) at once; `per_plan` None: no such limit."""

    total: int = 500
    per_plan: int | None = None


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
    ) -> RunStatus:
        """Move a Run to `target` if that is legal from its status, and give its status afterwards.

        The same target again, or a target that is no longer legal (e.g. the user stopped the Run
        meanwhile), changes nothing: callers look at the answer. `exit` is recorded only with a
        real move. Not for final statuses: see `finalize`. Raises RunNotFound, Superseded.
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
        """Admit waiting Runs of active Plans up to the limits: higher priority, then older, first.

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

    def work(self, *, fallback: timedelta) -> AsyncGenerator[None, None]:
        """Yield at once, then whenever there may be work: on NOTIFY, or after `fallback`."""


class CatalogueStore(Protocol):
    """What the API asks and changes. Lists have the orders of the Web API's contract."""

    async def find_data(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        """By timestamp (none last), then id; after the cursor (an id), at most `limit`."""

    async def data(self, knit_id: KnitId) -> DataDetail:
        """Raises DataNotFound."""

    async def change_tags(self, knit_id: KnitId, change: TagChange) -> DataDetail:
        """Removals first, then additions; idempotent; re-evaluates the Data if it is done."""

    async def register_plan(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        """Raises EquivalentPlan (`see`: its id), CyclicPlans, TooManyRuns (limit None: never)."""

    async def runs_if_registered(self, spec: PlanSpec) -> int:
        """Say how many Runs the Plan would create now."""

    async def find_plans(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        """By id; built-in Plans included."""

    async def plan(self, plan_id: PlanId) -> PlanDetail:
        """Raises PlanNotFound."""

    async def set_active(self, plan_id: PlanId, active: bool) -> PlanDetail:
        """Moves all its Runs waiting ⇄ deactivated. Raises PlanNotFound for built-in Plans too."""

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

    async def ensure_run(self, plan_id: PlanId, inputs: Mapping[str, KnitId]) -> RunKey:
        """Give the Run of exactly these inputs (path → Data), creating it when there is none.

        Raises PlanNotFound, DataNotFound, InvalidRequest when a path is missing, unknown, or the
        Data does not satisfy it.
        """

    async def wait_final(self, run_id: RunId, *, fallback: timedelta) -> RunDetail:
        """Wait until the Run is final; by NOTIFY, re-read every `fallback`."""

    async def ping(self) -> None:
        """Answer when the database does."""


class Store(RunStore, TransferStore, ProjectorStore, CatalogueStore, Protocol):
    """All of it."""

    async def open(self) -> None:
        """Connect; nothing is opened before. Called once per process."""

    async def aclose(self) -> None:
        """Close all connections."""
