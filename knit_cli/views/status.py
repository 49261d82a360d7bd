"""Describes how an installation is, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from knit_workflows.disk import format_bytes
from knit_workflows.wire.situation import COUNTED, InstallationStatus

_WORDS = 100
"""How much of a message is shown; `knit run show` shows all of it."""


def describe(status: InstallationStatus) -> list[str]:
    """Gives the lines: what needs attention, then all else."""
    return [*(attention(status.problems) or ["all is well"]), "", *details(status)]


def attention(problems: Sequence[str]) -> list[str]:
    """Gives a line for each thing that needs attention."""
    return [f"! {one}" for one in problems]


def details(status: InstallationStatus) -> list[str]:
    """Gives the lines about Runs, why they wait, failures, workers, the rest."""
    return [
        *_runs(status),
        *_held_up(status),
        *_ended(status),
        "",
        *_workers(status),
        *_versions(status),
        *_rest(status),
    ]


def _runs(status: InstallationStatus) -> Iterator[str]:
    if not status.runs:
        yield "no Run waits or is under way"
        return
    rows = [
        (one.status, f"{one.runs:,}", f"oldest for {_span(status.at - one.since)}", one.run_id)
        for one in status.runs
    ]
    yield from _table(("Runs", "", "", ""), rows)
    limits = status.limits
    if limits.total is not None:
        each = "" if limits.per_plan is None else f", {limits.per_plan:,} of one Plan"
        yield f"at most {limits.total:,} are under way at once{each}"


def _held_up(status: InstallationStatus) -> Iterator[str]:
    if not status.held_up:
        return
    yield ""
    rows = [
        (
            " ".join(filter(None, (one.kind, one.code))),
            f"{one.runs:,}",
            f"for {_span(status.at - one.since)}",
            one.run_id,
            _short(one.message),
        )
        for one in status.held_up
    ]
    yield from _table(("do not go on", "", "", "", ""), rows)


def _ended(status: InstallationStatus) -> Iterator[str]:
    ended = status.ended
    yield ""
    done, failed = _counted(ended.done), _counted(ended.failed)
    yield f"ended within {ended.hours} hours: {done} done, {failed} failed"
    rows = []
    for one in ended.failures:
        words = "" if one.exit is None else f"exit code {one.exit.code}: {one.exit.message}"
        ago = f"{_span(status.at - one.at)} ago"
        rows.append((one.run_id, ago, one.plan, _short(words.removesuffix(": "))))
    yield from _table((), rows)


def _workers(status: InstallationStatus) -> Iterator[str]:
    # Few have workers that take backups; without a schedule nobody misses them.
    shown = [
        one
        for one in status.workers
        if one.role != "backup" or one.workers or one.waiting or status.backups is not None
    ]
    if shown:
        rows = [
            (one.role, f"{one.workers:,}", f"{one.waiting:,} steps wait" if one.waiting else "")
            for one in shown
        ]
        yield from _table(("workers", "", ""), rows)
        yield ""


def _versions(status: InstallationStatus) -> Iterator[str]:
    # Drained ones stay on Temporal's list long after their workers.
    rows = [
        (
            one.build_id,
            one.state + ("" if one.since is None else f" for {_span(status.at - one.since)}"),
            f"{one.workers:,} workers" if one.workers else "no workers",
            "" if one.workflows is None else f"{one.workflows:,} workflows left",
        )
        for one in status.worker_versions or ()
        if one.workers or one.state not in ("drained", "inactive")
    ]
    if rows:
        yield from _table(("versions", "", "", ""), rows)
        yield ""


def _rest(status: InstallationStatus) -> Iterator[str]:
    backlog, disk, versions = status.backlog, status.disk, status.versions
    oldest = _span(timedelta(seconds=backlog.oldest_event_seconds))
    yield (
        f"to do: {_counted(backlog.events)} commits to project"
        + (f" (oldest for {oldest})" if backlog.events else "")
        + f", {_counted(backlog.transfers)} transfers open"
        + f", {_counted(backlog.discarded)} volumes to delete"
    )
    free = "" if disk.free is None else f"; its disk has {format_bytes(disk.free)} free"
    yield f"database: {format_bytes(disk.database)}{free}"
    if (backups := status.backups) is not None:
        last = (
            "none yet" if backups.last_at is None else f"{_span(status.at - backups.last_at)} ago"
        )
        yield (
            f"backups into {backups.destination}, {backups.when}"
            f"{', paused' if backups.paused else ''}: last complete set {last}"
        )
    temporal = f", Temporal {versions.temporal}" if versions.temporal else ""
    yield f"versions: knit {versions.knit}, database revision {versions.database}{temporal}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    every = [*([headings] if headings else []), *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    for row in every:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _counted(number: int) -> str:
    return f"{number:,}" if number < COUNTED else f"{COUNTED:,} or more"


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _WORDS else f"{line[: _WORDS - 1]}…"


def _span(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
