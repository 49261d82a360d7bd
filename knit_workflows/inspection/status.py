"""How an installation is: what runs, waits and fails, its workers, its disk.

`GET /api/status` answers with it. `python -m knit_workflows.inspection.status` prints it as one
JSON object; `knit admin status` runs that in a pod of the API.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from knit_workflows import names
from knit_workflows.disk import DiskSpace
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.ports.situation import LATELY, Situation
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.start_up import reach_temporal, run_and_leave
from knit_workflows.store import PostgresStore
from knit_workflows.temporal.backup_schedule import FoundSchedule
from knit_workflows.temporal.connection import client_config
from knit_workflows.temporal.queue_state import EngineState, engine_state
from knit_workflows.temporal.worker_versions import VersionAtWork
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.runs import Exit
from knit_workflows.wire.situation import (
    Backlog,
    Backups,
    Disk,
    EndedRuns,
    FailedRun,
    InstallationStatus,
    Limits,
    RunsHeldUp,
    RunsOfStatus,
    Versions,
    WorkersOfRole,
    WorkerVersion,
)

_LATE: Final = timedelta(minutes=1)
"""Commits are projected within milliseconds; for so long none waits unless something is wrong."""


def problems_of(situation: Situation, engine: EngineState, *, has_hooks: bool) -> list[str]:
    """Gives a sentence per thing that needs attention."""
    found = [engine.problem] if engine.problem else []
    needed = {"hooks": has_hooks, "backup": engine.backups is not None}
    found += [
        f"no worker has the role {one.role}: start one (python -m knit_workflows --roles …)"
        for one in engine.roles
        if not one.workers and needed.get(one.role, True)
    ]
    if engine.backups is not None:
        found += _about_backups(engine.backups, situation.at)
    found += _about_versions(engine.versions)
    backlog = situation.backlog
    if backlog.held:
        found.append(f"no Run is admitted: {backlog.held}")
    if backlog.oldest_event > _LATE:
        minutes = backlog.oldest_event / timedelta(minutes=1)
        found.append(
            f"a commit has waited for {minutes:.0f} min to be turned into Runs: see that the "
            f"workflow {names.projector_workflow(0)} runs, and a worker with the role engine"
        )
    return found


def _about_backups(backups: FoundSchedule, at: datetime) -> Iterator[str]:
    if backups.is_overdue(at):
        since = format_instant(backups.succeeded_at)
        yield (
            f"no scheduled backup has succeeded since {since}: the last workflow "
            f"{names.BACKUP_WORKFLOW} in Temporal says why"
        )
    if backups.unreadable:
        yield (
            f"the last backup is without {backups.unreadable:,} Data that could not be read: "
            "knit admin backup says which"
        )
    if backups.unpruned:
        yield f"backups that are too many cannot be removed: {backups.unpruned}"


def _about_versions(versions: Sequence[VersionAtWork]) -> Iterator[str]:
    """Says what stands still for want of a version, or of its workers."""
    if any(one.workers for one in versions) and not any(one.state == "current" for one in versions):
        yield (
            "workers have versions, and none of them is current: a worker with the role engine "
            "makes its own current when it is started"
        )
    for one in versions:
        if one.state == "draining" and one.workflows and not one.workers:
            yield (
                f"{one.workflows:,} workflows wait for workers of version {one.build_id}: add it "
                "to workers.versioning.draining of the chart"
            )


def installation_status(
    situation: Situation,
    engine: EngineState,
    *,
    version: str,
    has_hooks: bool,
    disk: DiskSpace | None,
) -> InstallationStatus:
    """Puts it together for the wire."""
    backlog = situation.backlog
    return InstallationStatus(
        at=situation.at,
        problems=problems_of(situation, engine, has_hooks=has_hooks),
        runs=[
            RunsOfStatus(status=one.status, runs=one.runs, since=one.since, run_id=one.run_id)
            for one in situation.counts
        ],
        held_up=[
            RunsHeldUp(
                kind=one.kind,
                code=one.code,
                runs=one.runs,
                since=one.since,
                run_id=one.run_id,
                message=one.message,
            )
            for one in situation.held_up
        ],
        ended=_ended(situation),
        backlog=Backlog(
            events=backlog.events,
            oldest_event_seconds=round(backlog.oldest_event.total_seconds(), 3),
            transfers=backlog.transfers,
            discarded=backlog.discarded,
        ),
        limits=Limits(total=backlog.total, per_plan=backlog.per_plan, held=backlog.held or None),
        workers=_workers(engine),
        versions=Versions(knit=version, database=situation.revision, temporal=engine.version),
        disk=Disk(
            database=backlog.database_bytes,
            free=None if disk is None else disk.free,
            total=None if disk is None else disk.total,
        ),
        backups=_backups(engine.backups),
        worker_versions=[
            WorkerVersion(
                build_id=one.build_id,
                state=one.state,
                since=one.since,
                workers=one.workers,
                workflows=one.workflows,
            )
            for one in engine.versions
        ]
        or None,
    )


def _ended(situation: Situation) -> EndedRuns:
    failures = [
        FailedRun(
            run_id=one.run_id,
            at=one.at,
            plan=one.plan,
            exit=one.exit and Exit(code=one.exit.code, message=one.exit.message),
        )
        for one in situation.failures
    ]
    hours = LATELY // timedelta(hours=1)
    return EndedRuns(hours=hours, done=situation.done, failed=situation.failed, failures=failures)


def _backups(found: FoundSchedule | None) -> Backups | None:
    if found is None:
        return None
    return Backups(
        destination=found.destination,
        when=found.when,
        paused=found.is_paused,
        last_set=found.last_set,
        last_at=found.last_at,
        unreadable=found.unreadable,
        unpruned=found.unpruned or None,
        next_at=found.next_at,
    )


def _workers(engine: EngineState) -> Sequence[WorkersOfRole]:
    return [
        WorkersOfRole(role=one.role, queue=one.queue, workers=one.workers, waiting=one.waiting)
        for one in engine.roles
    ]


def disk_of(folder: Path | None) -> DiskSpace | None:
    """Measures the disk of a folder on this machine, if there is one."""
    return None if folder is None else DiskSpace.of(folder)


async def take(settings: Settings) -> dict[str, Any]:
    """Gives the status as plain values, or `problem`: why there is none."""
    store = PostgresStore(settings.store)
    try:
        await store.open()
        situation = await store.situation.look()
        hooks = await store.hooks.hooks()
    except KnitError as error:
        return {"problem": error.reason, "advice": error.advice}
    finally:
        await store.aclose()
    status = installation_status(
        situation,
        await _engine(settings),
        version=names.VERSION,
        has_hooks=bool(hooks.before or hooks.after),
        disk=disk_of(settings.store.folder),
    )
    found: dict[str, Any] = to_wire(status)
    return found


async def _engine(settings: Settings) -> EngineState:
    try:
        client = await reach_temporal(client_config())
    except (KnitError, SettingsRefused) as error:
        return EngineState(problem=getattr(error, "reason", "") or str(error))
    return await engine_state(client, settings.queues, settings.versioning.deployment_name)


async def show() -> int:
    """Prints it; gives the exit code."""
    try:
        found = await take(read_settings())
    except SettingsRefused as refused:
        found = {"problem": str(refused), "advice": "correct the settings"}
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def main() -> None:
    """Prints it, and leaves the process."""
    run_and_leave(show())


if __name__ == "__main__":
    main()
