"""Runs: looked up and changed by users, carried out by activities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.model import Image, NodeRule
from knit_workflows.domain.plans.options import NO_OPTIONS, NO_POD_OPTIONS, PlanOptions, PodOptions
from knit_workflows.domain.runs.milestones import Timeline
from knit_workflows.domain.runs.run import (
    KNIT,
    USER,
    Exit,
    PendingReason,
    RunDetail,
    RunEvent,
    RunQuery,
    RunStatus,
)
from knit_workflows.domain.runs.timing import Timing
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
    options: PodOptions = NO_POD_OPTIONS
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the Before hooks want in the container's environment, until its pod is there."""
    hooked: bool = False
    """Whether hooks are in force."""


@dataclass(frozen=True, slots=True)
class UsedResources:
    """What a Run was really given, recorded when its pod is launched."""

    resources: Mapping[str, str]
    service_account: str | None


@dataclass(frozen=True, slots=True)
class Relaunched:
    """What has become of a Run that was to be launched again: its status, and how often it was.

    It is launched again if the status is waiting or deactivated; if it is still under way, that has
    happened too often already.
    """

    status: RunStatus
    times: int


@dataclass(frozen=True, slots=True)
class Concluded:
    """The final status of a Run, and where the time of this generation has gone."""

    status: RunStatus
    timing: Timing


@dataclass(frozen=True, slots=True)
class RunsOfPlan:
    """How many Runs of a Plan there are of each status that is not final, if any.

    `plan` is its image, or the name of a built-in Plan.
    """

    plan_id: PlanId
    plan: str
    runs: Mapping[RunStatus, int]


@dataclass(frozen=True, slots=True)
class RunCensus:
    """How many Runs there are of each status that is not final, if any.

    `oldest_waiting` is for how long the Run has waited that has waited for the longest time; 0 if
    none waits. `plans` are those with the most of these Runs, most first, then by id.
    """

    runs: Mapping[RunStatus, int]
    oldest_waiting: timedelta
    plans: Sequence[RunsOfPlan]


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

    async def find_ids(self, query: RunQuery, *, after: str | None = None) -> Sequence[str]:
        """Gives the ids of what `find` would list at this instant, in its order; raises as it does.

        However many there are, they take little.
        """

    async def get_each(self, run_ids: Sequence[str]) -> Sequence[RunDetail]:
        """Looks these Runs up as they are now, in this order.

        Those that are gone or invalidated are left out.
        """

    async def get(self, run_id: RunId) -> RunDetail:
        """Looks one Run up, invalidated or not; raises RunNotFound."""

    async def census(self, *, plans: int) -> RunCensus:
        """Counts the Runs that have not ended, also those of so many Plans, if there are as many.

        The cost follows the number of these Runs.
        """

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


@dataclass(frozen=True, slots=True)
class Started:
    """That a container has started: what `advance` to *running* records."""

    cause: str
    image_digest: str | None = None
    timeline: Timeline | None = None


class RunExecutionStore(Protocol):
    """Moves a Run from step to step. Every call may be repeated.

    Every call raises RunNotFound, and Superseded when the Run has a later generation.
    """

    async def spec(self, key: RunKey) -> RunSpec:
        """Gives everything needed to launch a Run."""

    async def prepare(self, keys: Sequence[RunKey]) -> None:
        """Reads ahead what `spec_to_launch` is going to give in this process in a moment."""

    async def spec_to_launch(self, key: RunKey) -> RunSpec:
        """Gives what `spec` gives, for a launch: as it is now, or was when it was prepared.

        In the latter case it was waiting, two seconds ago at most: `advance` to *ready*, which
        comes before any pod is created, notices what has changed since. Counts once.
        """

    async def advance(
        self,
        key: RunKey,
        target: RunStatus,
        *,
        cause: str,
        exit: Exit | None = None,
        image_digest: str | None = None,
        used: UsedResources | None = None,
        options: PlanOptions = NO_OPTIONS,
        notes: Sequence[str] = (),
        timeline: Timeline | None = None,
        actor: str = KNIT,
        hooks_called: bool = True,
        asked: str | None = None,
    ) -> RunStatus:
        """Moves a Run to `target` if that is legal from its status; gives its status afterwards.

        The same target again, or one that is no longer legal (e.g. because the user stopped the Run
        meanwhile), changes nothing: callers look at the status they get. `exit` and `notes`
        (sentences that the exit does not tell, added to those there are) are recorded only with a
        real move, and so is `timeline` (what is known of the pod's life), in the history; `used`
        and `options` (with which volumes and pod were made) in both. Not for final statuses: see
        `finalize`.

        Raises:
            HooksNotCalled: the move is legal, but hooks are in force and not `hooks_called`; or
                other Before hooks than those that were `asked` (a digest; None: not known).
        """

    async def hold_up(self, key: RunKey, reason: PendingReason | None, *, at: RunStatus) -> bool:
        """Records why a Run does not start, or does not end; None: nothing keeps it any longer.

        Changes nothing unless its status is `at`, nor if kind and code are those on record. Every
        real move of the Run clears the reason. Tells whether it was news, which goes into the Run's
        history: another kind or code than before, up to a bound per generation.
        """

    async def finalize(
        self, key: RunKey, *, cause: str, hooks_called: bool = True, asked: str | None = None
    ) -> RunStatus:
        """Makes a completing Run done and an aborting one failed; gives the final status.

        One transaction: status, timestamp of every output and log Data, run_event, and for a done
        Run one outbox event per Data. A second call changes nothing and gives the same.

        Raises:
            IllegalMove: the Run is neither.
            HooksNotCalled: as for `advance`.
        """

    async def conclude(
        self,
        key: RunKey,
        target: RunStatus,
        *,
        cause: str,
        exit: Exit | None = None,
        image_digest: str | None = None,
        notes: Sequence[str] = (),
        timeline: Timeline | None = None,
        running: Started | None = None,
    ) -> Concluded:
        """Moves a Run whose pod is over to `target`, as `advance` does, and then finalizes it.

        If it was seen `running` only a moment before, it becomes that first, unless that is on
        record. One transaction, and one round trip. Tells where its time has gone, too. A second
        call changes nothing and gives the same.

        Raises:
            IllegalMove: the Run is neither completing nor aborting after the first move.
            HooksNotCalled: hooks are in force; the first move may have been made.
        """

    async def timing(self, key: RunKey) -> Timing:
        """Tells where the time of this generation has gone so far."""

    async def relaunch(self, key: RunKey, *, cause: str, limit: int) -> Relaunched:
        """Makes the next generation of a Run under way whose pod was disrupted, and is gone.

        As a retry does it, but from starting or running, and at most `limit` times since the last
        retry by a user; no hook is called. A Run that is not under way stays as it is.

        Raises:
            IllegalMove: its outputs are being read.
        """

    async def give_up(self, key: RunKey, *, cause: str, exit: Exit) -> RunStatus:
        """Fails a Run that is running without a workflow; gives its status afterwards.

        While hooks are in force it is admitted instead: its workflow calls them, and fails it. One
        that is ending already is finished.
        """

    async def finish(self, key: RunKey, *, cause: str) -> RunStatus:
        """Finalizes a Run that has no workflow; gives its status afterwards.

        While hooks are in force it is admitted instead: its workflow calls them, and finalizes it.

        Raises:
            IllegalMove: the Run is neither completing nor aborting.
        """
