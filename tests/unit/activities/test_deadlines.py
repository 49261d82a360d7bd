"""How long a pod may fail to start: by the kind of its trouble, from when that kind began."""

from __future__ import annotations

from datetime import timedelta

import pytest

from knit_workflows.activities.runs.deadlines import StartDeadlines
from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind

RUNNING = Observation(Phase.RUNNING)


def _pending(kind: StartFailureKind) -> Observation:
    return Observation(Phase.PENDING, start_failure=StartFailure(kind, "Reason", "text"))


def _deadlines() -> StartDeadlines:
    return StartDeadlines(
        image_pull=timedelta(seconds=20),
        start=timedelta(minutes=10),
        refused=timedelta(seconds=30),
    )


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (StartFailureKind.IMAGE, 20.0),
        (StartFailureKind.TRANSIENT, 600.0),
        (StartFailureKind.REFUSED, 30.0),
    ],
)
def test_trouble_ends_a_run_after_its_time(kind: StartFailureKind, limit: float) -> None:
    """Not before, and it says when to look again."""
    deadlines = _deadlines()
    assert deadlines.expired(_pending(kind), 100.0) is None
    assert deadlines.remaining(100.0) == limit
    assert deadlines.expired(_pending(kind), 100.0 + limit - 0.1) is None
    lost = deadlines.expired(_pending(kind), 100.0 + limit)
    assert lost is not None
    assert lost.kind is kind


def test_no_room_is_waited_for() -> None:
    """An unschedulable pod never ends its Run."""
    deadlines = _deadlines()
    for now in (0.0, 1e6):
        assert deadlines.expired(_pending(StartFailureKind.UNSCHEDULABLE), now) is None
    assert deadlines.remaining(0.0) is None


def test_trouble_that_passes_is_forgotten() -> None:
    """A start, or another kind of trouble, begins the count anew."""
    deadlines = _deadlines()
    deadlines.expired(_pending(StartFailureKind.IMAGE), 0.0)
    deadlines.expired(Observation(Phase.PENDING), 15.0)
    assert deadlines.remaining(15.0) is None
    deadlines.expired(_pending(StartFailureKind.IMAGE), 16.0)
    assert deadlines.expired(_pending(StartFailureKind.IMAGE), 30.0) is None
    deadlines.expired(_pending(StartFailureKind.TRANSIENT), 31.0)
    assert deadlines.remaining(31.0) == 600.0


def test_a_running_pod_has_no_trouble() -> None:
    """Whatever kept it pending is over."""
    deadlines = _deadlines()
    deadlines.expired(_pending(StartFailureKind.IMAGE), 0.0)
    assert deadlines.expired(RUNNING, 100.0) is None
