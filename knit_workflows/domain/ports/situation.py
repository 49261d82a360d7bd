"""How an installation is at one moment, as far as the store knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import Exit, RunStatus

LATELY: Final = timedelta(days=1)
"""Runs that have ended are counted if they did so within this time."""
COUNTED: Final = 10_000
"""What could be many is counted no further."""


@dataclass(frozen=True, slots=True)
class StatusCount:
    """Runs of one status; `run_id` is one that has had it for longest, `since` when."""

    status: RunStatus
    runs: int
    since: datetime
    run_id: RunId


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Runs that do not go on for one reason: its kind, its code, and the words of the oldest."""

    kind: str
    code: str
    runs: int
    since: datetime
    run_id: RunId
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A Run that has failed; `plan` is its image, or the name of a built-in Plan."""

    run_id: RunId
    at: datetime
    plan: str
    exit: Exit | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still to be done; counts stop at `COUNTED`.

    `oldest_event` is for how long the oldest commit waits to be projected (zero: none does).
    `total` and `per_plan` are the limits of Runs under way, None: none, or not yet known; `held`
    says why no Run is admitted at all, empty: nothing prevents it.
    """

    events: int = 0
    oldest_event: timedelta = timedelta()
    transfers: int = 0
    discarded: int = 0
    total: int | None = None
    per_plan: int | None = None
    held: str = ""
    database_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """All of it, at the instant `at` of the database.

    `counts`: one per status that is not final and that some Run has, in the order of a Run's life.
    `held_up`: the most Runs first. `done` and `failed` count Runs that ended within `LATELY`, no
    further than `COUNTED`; `failures` are the latest of those that failed, newest first.
    `revision` is that of the database's tables, which may be later than what this knit needs.
    """

    at: datetime
    counts: Sequence[StatusCount]
    held_up: Sequence[HeldUp]
    done: int
    failed: int
    failures: Sequence[Failure]
    backlog: Backlog
    revision: str


class SituationStore(Protocol):
    """Looks at everything at once, without reading everything."""

    async def look(self, *, plan_ids: frozenset[str] | None = None) -> Situation:
        """Gives the situation; with `plan_ids` the Runs of these Plans alone.

        The backlog is the same for everybody. Its cost follows the Runs that have not ended.
        """
