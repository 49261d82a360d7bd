"""Where the time of a Run goes: the phases between the milestones that its history holds; pure.

```
created ─queue─► admitted ─engine─► pod created ─scheduling─► scheduled ─volume─► sandbox ready
   ─init─► initialized ─image─► pulled ─start─► started ─container─► ended ─log─► logged
   ─finalize─► done, failed
```
Not every back-end knows each milestone. The time before one that is unknown counts for the next
phase, so that the phases always add up to the time that the Run has taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import RunEvent, RunStatus


class TimedPhase(StrEnum):
    """What a Run spends its time with; in this order."""

    QUEUE = "queue"
    """Until it is admitted."""
    ENGINE = "engine"
    """Until its workflow has created volumes and pod; Before hooks included."""
    SCHEDULING = "scheduling"
    """Until its pod has a node."""
    VOLUME = "volume"
    """Until volumes are mounted and the network is there."""
    INIT = "init"
    """Until knit's init containers have ended, the pull of their image included."""
    IMAGE = "image"
    """Until its image is pulled."""
    START = "start"
    """Until its container runs."""
    CONTAINER = "container"
    """Until its container has ended."""
    LOG = "log"
    """Until its log is complete."""
    FINALIZE = "finalize"
    """Until its end is seen and its lineage is committed; Before hooks included."""


_ENDS: Final = dict(zip(Milestone, TimedPhase, strict=True))
"""The phase that ends with each milestone."""
_BY_STATUS: Final = {
    RunStatus.STARTING: Milestone.POD_CREATED,
    RunStatus.RUNNING: Milestone.STARTED,
    RunStatus.DONE: Milestone.FINAL,
    RunStatus.FAILED: Milestone.FINAL,
}
"""The milestones that knit itself sees; what the back-end says of the same one is more exact."""


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """How long a Run was, or has been so far, in a phase."""

    phase: TimedPhase
    duration: timedelta

    def __str__(self) -> str:
        return f"{self.phase}: {self.duration / timedelta(milliseconds=1):,.0f} ms"


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one generation of a Run went.

    `phases` are in order, without those that are unknown; they add up to `total`. If the Run is not
    final, the last one has been going on until now.
    """

    generation: int
    status: RunStatus
    total: timedelta
    phases: tuple[PhaseTime, ...]


def timing(events: Sequence[RunEvent], now: datetime) -> Timing:
    """Tells where the time of a Run's newest generation went.

    Args:
        events: the Run's history, oldest first; at least one.
        now: the end of the last phase, for a Run that is not final.
    """
    last = events[-1]
    mine = [event for event in events if event.generation == last.generation]
    phases: list[PhaseTime] = []
    begun = at = mine[0].at
    for phase, end in _ends(mine, now):
        if end > at or phase is TimedPhase.CONTAINER:
            phases.append(PhaseTime(phase, max(end - at, timedelta())))
        at = max(at, end)
    return Timing(last.generation, last.to_status, at - begun, tuple(phases))


def _ends(events: Sequence[RunEvent], now: datetime) -> Iterator[tuple[TimedPhase, datetime]]:
    """Gives the phases and when they ended; clocks differ, so an end may lie before an earlier one.

    What is given up before its container has started spent that time in the phase that did not end.
    """
    reached = _reached(events)
    final = reached.pop(Milestone.FINAL, None)
    last = None
    for milestone, phase in _ENDS.items():
        if milestone in reached:
            last = milestone
            yield phase, reached[milestone]
    ending = next((one.at for one in events if one.to_status.is_ending), None)
    if last is not Milestone.LOGGED and (ending or final is None):
        yield _after(last), ending or now
    if ending or final:
        yield TimedPhase.FINALIZE, final or now


def _after(last: Milestone | None) -> TimedPhase:
    """Gives the phase in which a Run is that has come so far."""
    if last is Milestone.POD_CREATED:
        return TimedPhase.START  # nothing is known of its pod yet
    milestones = list(_ENDS)
    return _ENDS[milestones[0 if last is None else milestones.index(last) + 1]]


def _reached(events: Sequence[RunEvent]) -> dict[Milestone, datetime]:
    reached: dict[Milestone, datetime] = {}
    for event in events:
        if event.from_status is event.to_status:
            continue  # a reason why it waits, or what happened to its Data
        if event.to_status in _BY_STATUS:
            reached.setdefault(_BY_STATUS[event.to_status], event.at)
        reached |= event.timeline
    return reached
