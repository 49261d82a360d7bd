"""The queue of waiting Runs: whose turn it is; and why a Run does not go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from knit_workflows.domain.hooks import DeliveryState
from knit_workflows.domain.ports import ADMITTED_AT_ONCE, AdmissionLimits
from knit_workflows.domain.runs.run import HookWait, RunStatus, Waiting, WaitKind
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session, Statement

_SQL: Final = named_sql.beside(__file__)

_MAX_POSITION: Final = 1000
"""How far the queue is searched for the position of a Run."""
_WITH_PENDING: Final = 10
_MOST_WITH_PENDING: Final = 500
_UNLIMITED: Final = 2**31 - 1
"""The largest limit that its column holds; larger ones count as this."""

_DEACTIVATED: Final = Waiting(None, "its Plan is not active", WaitKind.INACTIVE)
_ADMITTED: Final = Waiting(None, "its workflow is being started", WaitKind.WORKER)
_STARTED: Final = Waiting(
    None, "its workflow has been started, it gets ready next", WaitKind.WORKER
)

_REPORT_EXPECTED_AFTER: Final = {
    RunStatus.WAITING: timedelta(seconds=15),
    RunStatus.READY: timedelta(seconds=15),
    # By then a back-end has reported what it knows, if only that it knows nothing.
    RunStatus.STARTING: timedelta(seconds=90),
}
"""How long an admitted Run may have a status before the lack of a reported reason is remarkable."""
_END_EXPECTED_AFTER: Final = timedelta(seconds=90)
"""How long a Run may be ending before it is remarkable that its hooks report nothing."""
_ANSWER_EXPECTED_AFTER: Final = timedelta(seconds=90)
"""How long a hook may be called before it is more likely that its caller has died."""
_NOT_REPORTED: Final = {
    RunStatus.WAITING: "no worker has taken it up: those of the role compute are busy, or none is "
    "there",
    RunStatus.READY: "no worker has launched it yet: the one that began is slow or has died",
    RunStatus.STARTING: "no worker says what its pod does: those of the role watch are busy, or "
    "none is there",
}
_HOOKS_NOT_REPORTED: Final = (
    "no worker says what its hooks answer, or takes its next step: those of the roles hooks, "
    "compute and watch are busy, or one of them is not there"
)
_UNSTARTED: Final = (
    "its workflow has not been started: Temporal does not answer, or no worker with the role "
    "engine is there"
)

_OUTLOOK: Final = {
    WaitKind.WORKER: "goes on as soon as a worker takes it up",
    WaitKind.BACKEND: "tried again, or waited for, for as long as it takes",
    WaitKind.UNSCHEDULABLE: "waits for room, for as long as it takes",
    WaitKind.REFUSED: "tried again; the Run fails if it lasts",
    WaitKind.IMAGE: "tried again; the Run fails if it lasts",
    WaitKind.TRANSIENT: "tried again; the Run fails if it lasts",
    WaitKind.PROGRESS: "goes on by itself",
    WaitKind.HOOK: "the hook is asked again until it agrees",
    WaitKind.OTHER: "a worker of a newer knit says so; upgrade the API to be told what follows",
}
"""What knit does about it without a user."""
_SHOWN: Final = 200
"""Characters of a hook's answer that the reason repeats; its delivery has more of them."""


def admitting(limits: AdmissionLimits) -> list[Statement]:
    """Gives the statements that admit the Runs whose turn it is, at most `ADMITTED_AT_ONCE`.

    They record the limits as those in force, which depend on how many Runs have ended lately. A
    lock must be held that lets one process admit at a time.
    """
    in_force = {
        "usual": min(limits.total, _UNLIMITED),
        "short": 0 if limits.held else min(limits.short, _UNLIMITED),
        "per_plan": None if limits.per_plan is None else min(limits.per_plan, _UNLIMITED),
        "held": limits.held or None,
    }
    if limits.held:
        return [(_SQL["limits"], in_force)]
    wanted = {
        "with_pending": _WITH_PENDING,
        "most_with_pending": _MOST_WITH_PENDING,
        "most": ADMITTED_AT_ONCE,
    }
    return [(_SQL["limits"], in_force), (_SQL["admit"], wanted)]


def _ceiling(total: int) -> int:
    """Says how many Runs may be under way with the pending ones, given the limit without them."""
    return max(total, min(_WITH_PENDING * total, _MOST_WITH_PENDING))


async def why_waiting(session: Session, rows: Iterable[Any]) -> Mapping[str, Waiting]:
    """Explains, by Run, why those of these rows of `run` that should go on do not.

    One statement if a Run is in the queue, one if a Run waits for a hook. The position is that in
    the order of admission, whether or not the Run's Plan is at its limit.
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
        wanted = {"run_ids": queued, "most": _MAX_POSITION}
        places = {row.run_id: row for row in await session.rows(_SQL["places"], wanted)}
        # Without a row it has been admitted since its own row was read.
        reasons |= {one: _queued(places[one]) if one in places else _ADMITTED for one in queued}
    held = [run_id for run_id, reason in reasons.items() if _is_about_hooks(reason)]
    if held:
        for row in await session.rows(_SQL["hooks_waited_for"], {"run_ids": held}):
            reasons[row.run_id] = _with_hook(reasons[row.run_id], row)
    return reasons


def _is_about_hooks(reason: Waiting) -> bool:
    return reason.kind is WaitKind.HOOK or reason.reason == _HOOKS_NOT_REPORTED


def _under_way(row: Any) -> Waiting | None:
    """Explains why an admitted Run does not go on; None: nothing is unusual.

    A reason on record is a present one: every change of the status clears it.
    """
    if row.holdup is not None:
        return _pending(row.holdup)
    expected = _REPORT_EXPECTED_AFTER.get(row.status)
    if row.has_hooks and RunStatus(row.status).is_ending:
        expected = _END_EXPECTED_AFTER
    if expected is None:
        return None
    waits = row.status == RunStatus.WAITING
    since: datetime = (row.workflow_started_at or row.admitted_at) if waits else row.updated_at
    if row.seen_at - since > expected:
        unstarted = waits and row.workflow_started_at is None
        silent = _HOOKS_NOT_REPORTED if row.has_hooks else _NOT_REPORTED[row.status]
        reason = _UNSTARTED if unstarted else silent
        outlook = _OUTLOOK[WaitKind.WORKER]
        return Waiting(None, reason, WaitKind.WORKER, since=since, outlook=outlook)
    if not waits:
        return None
    return _ADMITTED if row.workflow_started_at is None else _STARTED


def _pending(reason: Mapping[str, Any]) -> Waiting:
    kind, until = WaitKind.reported(reason["kind"]), reason["until"]
    return Waiting(
        position=None,
        reason=reason["message"] or reason["code"],
        kind=kind,
        code=reason["code"],
        since=datetime.fromisoformat(reason["since"]),
        until=until and datetime.fromisoformat(until),
        outlook=_OUTLOOK.get(kind, ""),
    )


def _with_hook(waiting: Waiting, row: Any) -> Waiting:
    """Adds the hook, and its last answer, which changes more often than what is on record.

    One that is being asked for the first time has nothing on record yet.
    """
    hook = HookWait(row.delivery_id, row.url, RunStatus(row.to_status), row.attempts, row.next_at)
    if waiting.kind is not WaitKind.HOOK:
        if row.state != DeliveryState.CALLING or row.called_ago > _ANSWER_EXPECTED_AFTER:
            return waiting
        reason = f"the hook {row.url}, asked about → {row.to_status}, has not answered yet"
        outlook = _OUTLOOK[WaitKind.HOOK]
        return Waiting(None, reason, WaitKind.HOOK, since=row.called_at, outlook=outlook, hook=hook)
    answer = " ".join((row.answer or "").split())[:_SHOWN]
    reason = f"the hook {row.url} has not agreed to → {row.to_status}"
    return replace(waiting, reason=f"{reason}: {answer}" if answer else reason, hook=hook)


def _queued(row: Any) -> Waiting:
    if not row.active:  # and the Run is about to be deactivated
        return _DEACTIVATED
    where = f"behind the first {_MAX_POSITION:,}" if row.place is None else _ordinal(row.place)
    return Waiting(row.place, f"{where} in queue, {_held_by(row)}")


def _held_by(row: Any) -> str:
    """Says what must change before the Run is admitted; a Plan's limit goes first."""
    if row.total is None:
        return "no worker has admitted any Run yet: start one with the role engine"
    if row.held is not None:
        return str(row.held)
    if row.per_plan is not None and row.of_plan >= row.per_plan:
        return f"limit of {_runs(row.per_plan)} of this Plan under way reached"
    if row.of_all - row.of_all_pending >= row.total:
        return f"limit of {_runs(row.total)} under way reached"
    if row.of_plan >= row.total:
        reached = f"limit of {_runs(row.total)} of this Plan under way reached"
        return f"{reached}, {row.of_plan_pending:,} pending"
    if row.of_all >= (ceiling := _ceiling(row.total)):
        reached = f"limit of {_runs(ceiling)} under way or pending reached"
        return f"{reached}, {row.of_all_pending:,} pending"
    return "a place is free: a worker of the role engine admits it next"


def _runs(count: int) -> str:
    return f"{count:,} Run{'' if count == 1 else 's'}"


def _ordinal(number: int) -> str:
    """Writes a position: 1st, 2nd, 3rd, 4th, … 11th, … 1,000th."""
    teens = number % 100 in (11, 12, 13)
    suffix = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"
