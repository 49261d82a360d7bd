"""Calls a hook for a user who wants to see what it answers: with a Run that does not exist."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final, Protocol

from temporalio import activity

from knit_workflows.contracts.hook_test import HookTestActivities, HookTestInput, HookTestResult
from knit_workflows.domain.hooks import HookAnswer, HookPhase, Transition
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.model import Annotation, Image, PlanSummary
from knit_workflows.domain.runs.run import (
    Assignment,
    LogAssignment,
    RunDetail,
    RunStatus,
    RunSummary,
)
from knit_workflows.domain.tags import Tag
from knit_workflows.hooks.message import HookMessage
from knit_workflows.wire.base import Wire
from knit_workflows.wire.hooks.payload import hook_body

SAMPLE_RUN: Final = RunId("00000000-0000-4000-8000-000000000000")
"""The id of the Run in the sample: no real one has it."""
_PLAN: Final = PlanSummary(
    PlanId("00000000-0000-4000-8000-000000000001"),
    Image("localhost:5000/train", "v2"),
    None,
    (),
    ("--epochs", "3"),
    (Annotation("knit", "hook-test"),),
)
_IN, _OUT, _LOG = (KnitId(f"00000000-0000-4000-8000-00000000001{digit}") for digit in range(3))


class Caller(Protocol):
    """Calls one hook over HTTP."""

    async def call(self, url: str, message: HookMessage) -> HookAnswer:
        """Calls it once; whatever the receiver or the network does is an answer."""


class CallerHookTestActivities(HookTestActivities):
    """The activity of `knit.TestHook`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @activity.defn(name="knit.test_hook")
    async def test_hook(self, request: HookTestInput) -> HookTestResult:
        """Calls the hook once, under an id of its own: no receiver takes it for a repetition."""
        is_before = request.phase is HookPhase.BEFORE
        message = HookMessage(
            delivery_id=str(uuid.uuid4()),
            attempt=1,
            body=sample_body(request.phase, datetime.now(UTC)),
            wants_environment=is_before,
        )
        answer = await self._caller.call(request.url, message)
        return HookTestResult(
            succeeded=answer.succeeded,
            text=answer.text,
            duration=answer.duration,
            status_code=answer.status_code,
            environment=tuple(answer.environment),
        )


def sample_body(phase: HookPhase, at: datetime) -> Wire:
    """Gives what a hook is told when a Run is about to start, or has started to."""
    step = Transition(SAMPLE_RUN, 1, RunStatus.READY, RunStatus.STARTING)
    status = step.source if phase is HookPhase.BEFORE else step.target
    run = RunDetail(
        summary=RunSummary(SAMPLE_RUN, status, at, None, _PLAN),
        generation=1,
        inputs=(Assignment("/in/dataset", (Tag("type", "dataset"),), _IN),),
        outputs=(Assignment("/out/model", (Tag("type", "model"),), _OUT),),
        log=LogAssignment((Tag("type", "log"),), _LOG),
    )
    return hook_body(run, step, 1)
