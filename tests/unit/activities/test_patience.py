"""How long a pod may fail to start: by the kind of its trouble, from when that kind began."""

from __future__ import annotations

from datetime import timedelta

import pytest

from knit_workflows.activities.patience import Patience
from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind

RUNNING = Observation(Phase.RUNNING)


def _pending(kind: StartFailureKind) -> Observation:
    return Observation(Phase.PENDING, start_failure=StartFailure(kind, "Reason", "text"))


def _patience() -> Patience:
    return Patience(image=timedelta(seconds=20), transient=timedelta(minutes=10))


@pytest.mark.parametrize(
    ("kind", "limit"), [(StartFailureKind.IMAGE, 20.0), (StartFailureKind.TRANSIENT, 600.0)]
)
def test_trouble_ends_a_run_after_its_time(kind: StartFailureKind, limit: float) -> None:
    """Not before, and it says when to look again."""
    patience = _patience()
    assert patience.lost_with(_pending(kind), 100.0) is None
    assert patience.wakes_in(100.0) == limit
    assert patience.lost_with(_pending(kind), 100.0 + limit - 0.1) is None
    lost = patience.lost_with(_pending(kind), 100.0 + limit)
    assert lost is not None
    assert lost.kind is kind


def test_no_room_is_waited_for() -> None:
    """An unschedulable pod never ends its Run."""
    patience = _patience()
    for now in (0.0, 1e6):
        assert patience.lost_with(_pending(StartFailureKind.UNSCHEDULABLE), now) is None
    assert patience.wakes_in(0.0) is None


def test_trouble_that_passes_is_forgotten() -> None:
    """A start, or another kind of trouble, begins the count anew."""
    patience = _patience()
    patience.lost_with(_pending(StartFailureKind.IMAGE), 0.0)
    patience.lost_with(Observation(Phase.PENDING), 15.0)
    assert patience.wakes_in(15.0) is None
    patience.lost_with(_pending(StartFailureKind.IMAGE), 16.0)
    assert patience.lost_with(_pending(StartFailureKind.IMAGE), 30.0) is None
    patience.lost_with(_pending(StartFailureKind.TRANSIENT), 31.0)
    assert patience.wakes_in(31.0) == 600.0


def test_a_running_pod_has_no_trouble() -> None:
    """Whatever kept it pending is over."""
    patience = _patience()
    patience.lost_with(_pending(StartFailureKind.IMAGE), 0.0)
    assert patience.lost_with(RUNNING, 100.0) is None
