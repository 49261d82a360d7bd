"""How an installation is, on the wire."""

from __future__ import annotations

from typing import Final

from knit_workflows.wire.base import Response, optional
from knit_workflows.wire.runs import Exit
from knit_workflows.wire.times import WireTime

COUNTED: Final = 10_000
"""What could be many is counted no further, as by `ports.SituationStore`; it may be more."""


class RunsOfStatus(Response):
    """How many Runs have a status; `run_id` has had it for longest, since `since`."""

    status: str
    runs: int
    since: WireTime
    run_id: str


class RunsHeldUp(Response):
    """How many Runs do not go on for one reason.

    `kind` and `code` are those of a Run's `waiting`; `message` is what `run_id` says, which waits
    for longest, since `since`.
    """

    kind: str
    code: str
    runs: int
    since: WireTime
    run_id: str
    message: str


class FailedRun(Response):
    """A Run that has failed at `at`; `plan` is its image, or the name of a built-in Plan."""

    run_id: str
    at: WireTime
    plan: str
    exit: Exit | None = optional()


class EndedRuns(Response):
    """How many Runs have ended within the last `hours`, counted up to 10,000; the last to fail."""

    hours: int
    done: int
    failed: int
    failures: list[FailedRun]


class Backlog(Response):
    """What is still to be done; counts up to 10,000.

    `events` are commits that are to be turned into Runs, the oldest of them since
    `oldest_event_seconds`. `transfers` are open. `discarded` volumes are to be deleted.
    """

    events: int
    oldest_event_seconds: float
    transfers: int
    discarded: int


class Limits(Response):
    """The most Runs that are under way at once, and those of one Plan; left out: no limit.

    `held` says why no Run is admitted at all; left out: nothing prevents it.
    """

    total: int | None = optional()
    per_plan: int | None = optional()
    held: str | None = optional()


class WorkersOfRole(Response):
    """How many workers serve a role, and how many steps wait for them, as Temporal estimates it.

    Roles with the same task queue have the same workers.
    """

    role: str
    queue: str
    workers: int
    waiting: int


class Versions(Response):
    """Which knit answers, the revision of its database, and Temporal's version, if it answers."""

    knit: str
    database: str
    temporal: str | None = optional()


class Disk(Response):
    """Bytes: `database` is the size of the database.

    The other two are those of the disk that it is on, if that is the API's machine.
    """

    database: int
    free: int | None = optional()
    total: int | None = optional()


class Backups(Response):
    """The schedule of backups, and what came of it.

    `when` is an interval or a cron expression, `last_at` the instant at which `last_set` was
    complete, `unreadable` how many Data it is without, `unpruned` why older sets could not be
    removed after it, left out if they could. `next_at` is left out while it is paused.
    """

    destination: str
    when: str
    paused: bool
    last_set: str | None = optional()
    last_at: WireTime | None = optional()
    unreadable: int
    unpruned: str | None = optional()
    next_at: WireTime | None = optional()


class WorkerVersion(Response):
    """A version of the workers: with the `current` one Runs begin.

    `state` is `current`, `ramping`, `draining`, `drained` or `inactive`, since `since`. `workers`
    counts those with the role engine. `workflows` are under way and end with this version; left
    out: not known, or more may begin.
    """

    build_id: str
    state: str
    since: WireTime | None = optional()
    workers: int
    workflows: int | None = optional()


class InstallationStatus(Response):
    """How an installation is at the instant `at`.

    `problems` are sentences about what needs attention; none: all is well. `workers` is empty if
    Temporal does not answer. Without `backups` none are scheduled. `worker_versions`: the newest
    first; left out: workers have no versions, or it is not known.
    """

    at: WireTime
    problems: list[str]
    runs: list[RunsOfStatus]
    held_up: list[RunsHeldUp]
    ended: EndedRuns
    backlog: Backlog
    limits: Limits
    workers: list[WorkersOfRole]
    versions: Versions
    disk: Disk
    backups: Backups | None = optional()
    worker_versions: list[WorkerVersion] | None = optional()
