"""Activities while what they speak to is away: what matters is done, the rest is only logged."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities.holdups import Holdups
from knit_workflows.activities.housekeeping import StoreHousekeepingActivities
from knit_workflows.compute.base import Trouble, TroubleKind
from knit_workflows.contracts.housekeeping import HousekeepingInput
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey, TransferRecord
from knit_workflows.domain.runs import Holdup, RunStatus
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
        self.held_up: list[Holdup | None] = []

    async def hold_up(self, _: RunKey, holdup: Holdup | None, *, at: RunStatus) -> bool:
        if self.error is not None:
            raise self.error
        self.held_up.append(holdup)
        return at is RunStatus.STARTING

    async def stale_transfers(self, **_: object) -> list[TransferRecord]:
        return [TransferRecord("t", KnitId("k"), RunId(""), "v", "read", token="", endpoint="")]


async def test_what_held_a_run_up_is_over_and_told_although_temporal_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The Web UI is a comfort; the store has it, and the log."""
    store = Store()
    holdups = Holdups(store, KEY, nothing_said=True)  # type: ignore[arg-type]

    async def told() -> None:
        await holdups.trouble(Trouble(TroubleKind.PROGRESS, "PullingImage", "pulling"), None)
        await holdups.trouble(None, None)

    with caplog.at_level(logging.INFO):
        await ActivityEnvironment(client=Away()).run(told)  # type: ignore[arg-type]
    assert [one and one.code for one in store.held_up] == ["PullingImage", None]
    said = [one.getMessage() for one in caplog.records if one.name.endswith("holdups")]
    assert said == [
        "run is held up: pulling",
        "workflow was not told",
        "run is no longer held up",
        "workflow was not told",
    ]


async def test_a_store_that_is_away_keeps_no_stop_from_going_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holdups = Holdups(Store(StoreUnavailable("no database")), KEY, nothing_said=False)  # type: ignore[arg-type]
    await ActivityEnvironment(client=Away()).run(holdups.not_gone)  # type: ignore[arg-type]
    assert "cannot record why the Run is held up: no database" in caplog.text


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
