"""The queue of waiting Runs: whose turn it is; and why a Run has not started yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from knit_workflows.domain.ports import ADMITTED_AT_ONCE, AdmissionLimits
from knit_workflows.domain.runs import RunStatus, Waiting, WaitKind
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session

_SQL: Final = named_sql.beside(__file__)


def _with_turns(name: str) -> str:
    return _SQL[name].replace("/*turns*/", _SQL["turns"])


_ADMIT: Final = _with_turns("admit")
_PLACES: Final = _with_turns("places")

_SEEN: Final = 1000
"""How far the queue is looked through for somebody's place in it."""
_WITH_HELD_UP: Final = 10
_MOST_WITH_HELD_UP: Final = 500
_UNLIMITED: Final = 2**31 - 1
"""What a limit that is larger comes to: the most that its column holds."""

_DEACTIVATED: Final = Waiting(None, "its Plan is not active", WaitKind.INACTIVE)
_ADMITTED: Final = Waiting(None, "its workflow is being started", WaitKind.WORKER)
_STARTED: Final = Waiting(
    None, "its workflow has been started, it gets ready next", WaitKind.WORKER
)

_UNHEARD_AFTER: Final = {
    RunStatus.WAITING: timedelta(seconds=15),
    RunStatus.READY: timedelta(seconds=15),
    # A back-end has said by then what it knows, if only that there is nothing to be known.
    RunStatus.STARTING: timedelta(seconds=90),
}
"""For how long it is the usual course of things that an admitted Run stands there and no worker
has said why."""
_HELD_UP: Final = frozenset({*_UNHEARD_AFTER, RunStatus.COMPLETING, RunStatus.ABORTING})
"""Statuses a Run may be held up in: those it goes through without its container."""
_UNHEARD: Final = {
    RunStatus.WAITING: "no worker has taken it up: those of the role compute are busy, or none is "
    "there",
    RunStatus.READY: "no worker has launched it yet: the one that began is slow, or gone",
    RunStatus.STARTING: "no worker says what its pod does: those of the role watch are busy, or "
    "none is there",
}
_UNSTARTED: Final = (
    "its workflow has not been started: Temporal does not answer, or no worker with the role "
    "engine is there"
)

_OUTLOOK: Final = {
    WaitKind.WORKER: "goes on as soon as a worker takes it up",
    WaitKind.BACKEND: "tried again, or waited for, for as long as it takes",
    WaitKind.UNSCHEDULABLE: "waits for room, for as long as it takes",
    WaitKind.IMAGE: "tried again; the Run fails if it lasts",
    WaitKind.TRANSIENT: "tried again; the Run fails if it lasts",
    WaitKind.PROGRESS: "goes on by itself",
}
"""What knit does about it by itself."""


async def admit_next(session: Session, limits: AdmissionLimits) -> int:
    """Admit those Runs whose turn it is, at most `ADMITTED_AT_ONCE`; give how many.

    Records the limits, as those in force. One process at a time: the caller holds a lock.
    """
    total = await _total(session, limits)
    per_plan = None if limits.per_plan is None else min(limits.per_plan, _UNLIMITED)
    await session.do(
        _SQL["limits"], {"total": total, "per_plan": per_plan, "held": limits.held or None}
    )
    if limits.held:
        return 0
    wanted = {
        "total": total,
        "ceiling": _ceiling(total),
        # One Plan's Runs, held up for one reason, are not to fill all of that: nor are they all to
        # go on at once when it is over.
        "per_plan": total if per_plan is None else min(per_plan, total),
        "most": ADMITTED_AT_ONCE,
    }
    return await session.do(_ADMIT, wanted)


async def _total(session: Session, limits: AdmissionLimits) -> int:
    """Give the limit of all Runs that holds now, which follows how quickly they come and go."""
    total, short = (min(limit, _UNLIMITED) for limit in (limits.total, limits.short))
    if short <= total or limits.held:
        return total
    ended = await session.row(_SQL["ended_lately"], {"most": total})
    return short if ended.runs >= total else total


def _ceiling(total: int) -> int:
    """Say how many Runs may be under way with those that are held up, given the limit without."""
    return max(total, min(_WITH_HELD_UP * total, _MOST_WITH_HELD_UP))


async def why_waiting(session: Session, rows: Iterable[Any]) -> Mapping[str, Waiting]:
    """Say why those of these rows of `run` have not started that are to, by Run.

    One statement, and none when no Run is in the queue. The place is that in the order of
    admission, be the Run's Plan at its limit or not.
    """
    reasons: dict[str, Waiting] = {}
    queued = []
    for row in rows:
        if row.status == RunStatus.DEACTIVATED:
            reasons[row.run_id] = _DEACTIVATED
        elif row.status == RunStatus.WAITING and row.admitted_at is None:
            queued.append(row.run_id)
        elif (found := _under_way(row)) is not None:
            reasons[row.run_id] = found
    if queued:
        unlimited = dict.fromkeys(("total", "ceiling", "per_plan"))
        wanted = {"run_ids": queued, "most": _SEEN, **unlimited}
        places = {row.run_id: row for row in await session.rows(_PLACES, wanted)}
        # Without a row it has been admitted since its own row was read.
        reasons |= {one: _queued(places[one]) if one in places else _ADMITTED for one in queued}
    return reasons


def _under_way(row: Any) -> Waiting | None:
    """Say why an admitted Run has not started, or does not end; None: it goes its usual course."""
    if row.status in _HELD_UP and row.holdup is not None:
        return _held_up(row.holdup)
    if row.status not in _UNHEARD_AFTER:
        return None
    waits = row.status == RunStatus.WAITING
    since: datetime = (row.workflow_started_at or row.admitted_at) if waits else row.updated_at
    if row.seen_at - since > _UNHEARD_AFTER[row.status]:
        unstarted = waits and row.workflow_started_at is None
        reason = _UNSTARTED if unstarted else _UNHEARD[row.status]
        outlook = _OUTLOOK[WaitKind.WORKER]
        return Waiting(None, reason, WaitKind.WORKER, since=since, outlook=outlook)
    if not waits:
        return None
    return _ADMITTED if row.workflow_started_at is None else _STARTED


def _held_up(holdup: Mapping[str, Any]) -> Waiting:
    kind, until = WaitKind(holdup["kind"]), holdup["until"]
    return Waiting(
        place=None,
        reason=holdup["message"] or holdup["code"],
        kind=kind,
        code=holdup["code"],
        since=datetime.fromisoformat(holdup["since"]),
        until=until and datetime.fromisoformat(until),
        outlook=_OUTLOOK.get(kind, ""),
    )


def _queued(row: Any) -> Waiting:
    where = f"behind the first {_SEEN:,}" if row.place is None else _ordinal(row.place)
    return Waiting(row.place, f"{where} in queue, {_held_by(row)}")


def _held_by(row: Any) -> str:
    """Give what must change before the Run is admitted; a Plan's limit is the narrower one."""
    if row.total is None:
        return "no worker has admitted any Run yet: start one with the role engine"
    if row.held is not None:
        return str(row.held)
    if row.per_plan is not None and row.of_plan >= row.per_plan:
        return f"limit of {_runs(row.per_plan)} of this Plan under way reached"
    if row.of_all - row.of_all_held_up >= row.total:
        return f"limit of {_runs(row.total)} under way reached"
    if row.of_plan >= row.total:
        reached = f"limit of {_runs(row.total)} of this Plan under way reached"
        return f"{reached}, {row.of_plan_held_up:,} held up"
    if row.of_all >= (ceiling := _ceiling(row.total)):
        reached = f"limit of {_runs(ceiling)} under way or held up reached"
        return f"{reached}, {row.of_all_held_up:,} held up"
    return "a place is free: a worker of the role engine admits it next"


def _runs(count: int) -> str:
    return f"{count:,} Run{'' if count == 1 else 's'}"


def _ordinal(number: int) -> str:
    """Give a place in words: 1st, 2nd, 3rd, 4th, … 11th, … 1,000th."""
    teens = number % 100 in (11, 12, 13)
    suffix = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"
