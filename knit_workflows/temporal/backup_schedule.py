"""The schedule of backups: Temporal has it, at most one per installation.

What it hands over to the workflow says also how it was asked for, and which set was the last: so
whoever can ask Temporal can tell when the last backup succeeded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, TypeAlias

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names

_TIMEOUT: Final = timedelta(seconds=10)
_CATCHUP: Final = timedelta(days=1)
"""After an outage of up to a day the backup that was missed is taken; one, however many were."""
_SET: Final = re.compile(r"(\d{8}T\d{12}Z)-[0-9a-f]{8}")
_UNITS: Final = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "min": timedelta(minutes=1),
}
_PERIODS: Final = 2
"""A backup that fails once is followed by another try; after so many periods somebody must know."""


@dataclass(frozen=True)
class BackupSchedule:
    """A schedule as it was asked for: an interval or a cron expression.

    `keep`: how many sets stay; None: all.
    """

    destination: str
    keep: int | None = None
    every: timedelta | None = None
    cron: str | None = None

    @property
    def when(self) -> str:
        """In words: `every 6 h`, or the cron expression."""
        if self.every is None:
            assert self.cron is not None
            return self.cron
        return f"every {_in_words(self.every)}"

    def spec(self) -> ScheduleSpec:
        """Gives it in Temporal's terms."""
        if self.every is not None:
            return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=self.every)])
        assert self.cron is not None
        return ScheduleSpec(cron_expressions=[self.cron])


@dataclass(frozen=True)
class FoundSchedule:
    """The schedule as Temporal has it. `last_at`: when the last set was complete; None: none yet.

    `made_at`: when it was made or changed for the last time, by Temporal's clock; to note a set
    changes it, too. `last_at` is by the clock of who has taken the set, as its id says.
    `unreadable`: how many Data that set is without. `unpruned`: why older ones could not be removed
    after it, empty if they could. `period`: the longest time between two of the next backups; None
    while it is paused.
    """

    destination: str
    when: str
    keep: int | None
    is_paused: bool
    made_at: datetime
    running: bool
    last_set: str | None = None
    last_at: datetime | None = None
    unreadable: int = 0
    unpruned: str = ""
    next_at: datetime | None = None
    period: timedelta | None = None

    @property
    def succeeded_at(self) -> datetime:
        """When the last backup has succeeded; before the first one: when the schedule was made.

        A set is complete before it is noted. One that says otherwise is of a clock that was ahead,
        and so are all after it, since ids of sets only grow.
        """
        return min(self.last_at or self.made_at, self.made_at)

    def is_overdue(self, now: datetime) -> bool:
        """Says whether no backup has succeeded for two periods."""
        return self.period is not None and now - self.succeeded_at > _PERIODS * self.period


async def put_schedule(client: Client, wanted: BackupSchedule, queue: str) -> None:
    """Makes the schedule, and has a first backup taken at once; or replaces the one that is there.

    One that is being taken is waited for. It runs then, even if somebody had paused the earlier
    one. Raises RPCError, also for a cron expression that Temporal does not understand.
    """
    given: dict[str, Any] = {
        "destination": wanted.destination,
        "keep": wanted.keep,
        "when": wanted.when,
    }
    before = await find_schedule(client)
    if before is not None and before.destination == wanted.destination:
        given |= _about(before.last_set, before.unreadable, before.unpruned)
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            names.BACKUP_WORKFLOW, given, id=names.BACKUP_WORKFLOW, task_queue=queue
        ),
        spec=wanted.spec(),
        # One that takes longer than its period is not joined by another. A failure pauses nothing:
        # the next try may succeed, and nobody looks at a schedule that stands still.
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCHUP, pause_on_failure=False
        ),
    )
    try:
        await client.create_schedule(
            names.BACKUP_SCHEDULE, schedule, trigger_immediately=True, rpc_timeout=_TIMEOUT
        )
    except ScheduleAlreadyRunningError:
        await _handle(client).update(lambda _: ScheduleUpdate(schedule), rpc_timeout=_TIMEOUT)
        # After the one that is being taken, if there is one: that goes where it was told to.
        once = ScheduleOverlapPolicy.BUFFER_ONE
        await _handle(client).trigger(overlap=once, rpc_timeout=_TIMEOUT)


async def find_schedule(client: Client) -> FoundSchedule | None:
    """Gives the schedule; None: there is none; raises RPCError."""
    try:
        described = await _handle(client).describe(rpc_timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    given = await _given(client, described)
    paused, info = described.schedule.state.paused, described.info
    coming = [] if paused else info.next_action_times
    last_set = given.get("last_set")
    return FoundSchedule(
        destination=given["destination"],
        when=given.get("when", ""),
        keep=given.get("keep"),
        is_paused=paused,
        made_at=info.last_updated_at or info.created_at,
        running=bool(info.running_actions),
        last_set=last_set,
        last_at=None if last_set is None else instant_of(last_set),
        unreadable=given.get("unreadable", 0),
        unpruned=given.get("unpruned", ""),
        next_at=coming[0] if coming else None,
        period=max((after - before for before, after in pairwise(coming)), default=None),
    )


async def pause_schedule(client: Client, paused: bool) -> bool:
    """Pauses it, or has it go on; False: there is none; raises RPCError."""

    async def changed(found: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = found.description.schedule
        return ScheduleUpdate(
            dataclasses.replace(schedule, state=dataclasses.replace(schedule.state, paused=paused))
        )

    return await _if_there(client, changed)


async def remove_schedule(client: Client) -> bool:
    """Removes it; a backup that is being taken goes on. False: there is none; raises RPCError."""
    try:
        await _handle(client).delete(rpc_timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def remember(
    client: Client, destination: str, set_id: str, *, unreadable: int, unpruned: str
) -> None:
    """Notes the last set, unless the schedule is gone, or for another destination by now."""

    async def changed(update: ScheduleUpdateInput) -> ScheduleUpdate | None:
        # What is there now, with what a newer build may have added.
        given = await _given(client, update.description)
        if given.get("destination") != destination:
            return None
        given |= _about(set_id, unreadable, unpruned)
        schedule = update.description.schedule
        action = schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        return ScheduleUpdate(
            dataclasses.replace(schedule, action=dataclasses.replace(action, args=[given]))
        )

    await _if_there(client, changed)


def _about(last_set: str | None, unreadable: int, unpruned: str) -> dict[str, Any]:
    return {"last_set": last_set, "unreadable": unreadable, "unpruned": unpruned}


def instant_of(set_id: str) -> datetime | None:
    """Gives when a set was complete, which its id begins with."""
    found = _SET.fullmatch(set_id)
    if found is None:
        return None
    return datetime.strptime(found[1], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def _in_words(span: timedelta) -> str:
    parts = []
    for unit, size in _UNITS.items():
        count, span = divmod(span, size)
        if count:
            parts.append(f"{count} {unit}")
    if span:
        parts.append(f"{span.total_seconds():.8g} s")
    return " ".join(parts)


def _handle(client: Client) -> ScheduleHandle:
    return client.get_schedule_handle(names.BACKUP_SCHEDULE)


_Change: TypeAlias = Callable[[ScheduleUpdateInput], Awaitable[ScheduleUpdate | None]]


async def _if_there(client: Client, change: _Change) -> bool:
    try:
        await _handle(client).update(change, rpc_timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _given(client: Client, described: ScheduleDescription) -> dict[str, Any]:
    action = described.schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    [given] = await client.data_converter.decode(action.args)
    assert isinstance(given, dict)
    return given
