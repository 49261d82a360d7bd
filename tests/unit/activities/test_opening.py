"""How often a transfer that opens is looked at, and when it is given up."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities.transfers.opening import Opening, passes
from knit_workflows.activities.transfers.transfer import ComputeTransferActivities
from knit_workflows.compute.base import Endpoint, Transfer
from knit_workflows.contracts.transfers import Opened, OpenTransfer
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
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import TransferRecord

NOBODY: Any = None
IDLE = timedelta(minutes=3)
REQUEST = OpenTransfer(transfer_id="t", mode="read", knit_id="k", within=timedelta(seconds=60))


def opening(seconds: float) -> Opening:
    return Opening(REQUEST, timedelta(seconds=seconds), NOBODY, NOBODY, NOBODY, IDLE)


class Rows:
    """The store of a download; nothing else is asked of it."""

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        return TransferRecord(transfer_id, knit_id, RunId(""), "volume", "read", "token", "")

    async def get(self, transfer_id: str) -> None:
        """It is still wanted."""

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        """Nobody reads it."""


class ReadyAtTheThirdLook:
    """A back-end; it knows when it was looked at."""

    def __init__(self) -> None:
        self.looks: list[float] = []

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        self.looks.append(time.monotonic())
        if len(self.looks) < 3:
            raise TransferNotReady
        return Endpoint("http://agent")


def test_an_endpoint_is_looked_at_often_at_first_and_seldom_later() -> None:
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


@pytest.mark.parametrize("ahead", [timedelta(minutes=2), timedelta(hours=-1)], ids=str)
async def test_the_clock_of_the_worker_may_be_wrong(ahead: timedelta) -> None:
    """One that is behind would look ten times a second; one ahead would give up at once."""
    waited = 5.0
    scheduled = datetime.now(UTC) + ahead
    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info,
        scheduled_time=scheduled,
        started_time=scheduled + timedelta(seconds=waited),
    )
    rows: Any = Rows()
    backend: Any = ReadyAtTheThirdLook()
    activities = ComputeTransferActivities(rows, NOBODY, NOBODY, backend, IDLE)
    opened: Opened = await environment.run(activities.open_transfer, REQUEST)
    assert opened.ok
    first, second, third = backend.looks
    # An event loop may wake a moment early.
    assert second - first > 0.1 * waited - 0.01
    assert third - second > 0.1 * (waited + second - first) - 0.01


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
