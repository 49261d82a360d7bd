"""How often a transfer that opens is looked at, and when it is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from knit_workflows.activities.transfers.opening import Opening, passes
from knit_workflows.contracts.transfers import OpenTransfer
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    DataExists,
    KnitError,
    QuotaExceeded,
    StorageFull,
    StoreFull,
    TransferNotReady,
)

NOBODY: Any = None


def opening(seconds: float) -> Opening:
    request = OpenTransfer(transfer_id="t", mode="read", knit_id="k", within=timedelta(seconds=60))
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    return Opening(request, since, NOBODY, NOBODY, NOBODY, timedelta(minutes=3))


def test_a_door_is_looked_at_often_at_first_and_seldom_later() -> None:
    """Ten looks a second would be six hundred in a minute."""
    looks, passed = 0, 0.0
    while passed < 60:
        passed += opening(passed).pause
        looks += 1
    assert 30 < looks < 60
    assert opening(0).pause == pytest.approx(0.1)
    assert opening(1e6).pause == pytest.approx(4.0)


def test_the_time_counts_from_the_first_attempt_and_the_last_reason_is_told() -> None:
    assert not opening(50).is_over
    late = opening(61)
    assert late.is_over
    told = late.too_late(QuotaExceeded("the quota q is used up", advice="make room"))
    assert (told.ok, told.kind, told.advice) == (False, "QuotaExceeded", "make room")
    assert told.reason == "the way to the Data was not ready within 60 s: the quota q is used up"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (TransferNotReady, True),
        (BackendUnavailable, True),
        (QuotaExceeded, True),
        (StorageFull, False),
        (StoreFull, False),
        (BackendRejected, False),
        (DataExists, False),
    ],
)
def test_what_may_pass_is_waited_for(error: type[KnitError], wanted: bool) -> None:
    assert passes(error()) is wanted
