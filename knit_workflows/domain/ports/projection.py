"""From commits to Runs, and from Runs to workflows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.ports.runs import RunKey


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
    """What one step of projection did: the kind of event, and how many Runs it created.

    `has_next`: there was more to project when it looked.
    """

    event_kind: str
    created: int
    has_next: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """What one step of projection did, None if there was no event, and what it has admitted.

    `startable` None: there is more to project first.
    """

    projection: Projection | None
    startable: Sequence[StartableRun] | None


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

    async def project_and_admit(
        self, *, page_size: int, limits: AdmissionLimits, started: Sequence[RunKey]
    ) -> Pass:
        """Takes one outbox event as `ProjectionStore.project` does; if it was the last, admits.

        In that case it first records that the workflows of `started` exist. All or nothing; an
        admitted Run that is not given, because the caller fails, is given by the next call.
        """

    async def prepare(self, keys: Sequence[RunKey]) -> None:
        """Has this process know what the launches of these Runs, which follow, will ask for."""

    async def started(self, keys: Sequence[RunKey]) -> None:
        """Records that the workflows of these Runs exist."""

    async def stop_requests(self) -> Sequence[StopRequest]:
        """Gives the stops to deliver, oldest first; only of Runs with a started workflow."""

    async def close_event(self, event_id: int) -> None:
        """Removes a delivered event. A second call changes nothing."""

    def has_stops(self) -> bool:
        """Says whether, at the last `admit`, there was anything to finish or a stop to deliver.

        Of what comes later the Projector is notified.
        """

    async def finish_unstarted(self) -> int:
        """Finalizes aborting Runs that were never admitted; gives how many.

        While hooks are in force it admits them instead: their workflows call the hooks.
        """

    def throttled(self) -> bool:
        """Says whether a user began to wait within `THROTTLE_FOR`: for a transfer, or for a stop.

        Known only while `ProjectionStore.wake_ups` is iterated; until it is known: yes.
        """
