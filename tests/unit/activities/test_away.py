"""Activities while what they speak to is away: what matters is done, the rest is only logged."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities.housekeeping import StoreHousekeepingActivities
from knit_workflows.activities.runs.pending_reasons import PendingReporter
from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.contracts.housekeeping import HousekeepingInput
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey, TransferRecord
from knit_workflows.domain.runs.run import PendingReason, RunStatus
from knit_workflows.settings import EngineSettings

KEY = RunKey(RunId("r"), 1)


class Away:
    """Takes the place of a client: every call of a workflow fails."""

    def get_workflow_handle(self, _: str) -> Away:
        return self

    async def signal(self, *_: object, **__: object) -> None:
        raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")

    async def describe(self) -> None:
        raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")


class Store:
    """Takes the place of a store, as far as these activities ask it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.held_up: list[PendingReason | None] = []

    async def hold_up(self, _: RunKey, reason: PendingReason | None, *, at: RunStatus) -> bool:
        if self.error is not None:
            raise self.error
        self.held_up.append(reason)
        return at is RunStatus.STARTING

    async def stale_transfers(self, **_: object) -> list[TransferRecord]:
        return [TransferRecord("t", KnitId("k"), RunId(""), "v", "read", token="", endpoint="")]


async def test_what_held_a_run_up_is_over_and_told_although_temporal_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The Web UI is a comfort; the store has it, and the log."""
    store = Store()
    reporter = PendingReporter(store, KEY, nothing_recorded=True)  # type: ignore[arg-type]

    async def told() -> None:
        pulling = StartFailure(StartFailureKind.PROGRESS, "PullingImage", "pulling")
        await reporter.start_failure(pulling, None)
        await reporter.start_failure(None, None)

    with caplog.at_level(logging.INFO):
        await ActivityEnvironment(client=Away()).run(told)  # type: ignore[arg-type]
    assert [one and one.code for one in store.held_up] == ["PullingImage", None]
    said = [one.getMessage() for one in caplog.records if one.name.endswith("pending_reasons")]
    assert said == [
        "run is pending: pulling",
        "workflow was not signalled",
        "run is no longer pending",
        "workflow was not signalled",
    ]


async def test_a_store_that_is_away_keeps_no_stop_from_going_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reporter = PendingReporter(Store(StoreUnavailable("no database")), KEY, nothing_recorded=False)  # type: ignore[arg-type]
    await ActivityEnvironment(client=Away()).run(reporter.pod_not_gone)  # type: ignore[arg-type]
    assert "cannot record why the Run is pending: no database" in caplog.text


async def test_no_transfer_is_taken_for_lost_while_temporal_is_away() -> None:
    """Whether its workflow looks after it is not known then: the activity is tried again."""
    nothing = SimpleNamespace()
    projector = ProjectorInput(engine_queue="e", compute_queue="c", watch_queue="w")
    request = HousekeepingInput(projector=projector, grace=timedelta(0))
    activities = StoreHousekeepingActivities(Store(), nothing, nothing, EngineSettings())  # type: ignore[arg-type]
    with pytest.raises(ApplicationError) as failed:
        await ActivityEnvironment(client=Away()).run(  # type: ignore[arg-type]
            activities.end_lost_transfers, request
        )
    assert failed.value.type == "EngineUnavailable"
    assert not failed.value.non_retryable
