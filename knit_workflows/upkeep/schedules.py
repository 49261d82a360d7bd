"""The schedules of garbage collection and reconciliation."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from knit_workflows import names
from knit_workflows.contracts.housekeeping import HousekeepingInput
from knit_workflows.settings import EngineSettings
from knit_workflows.workflows.housekeeping import GarbageCollectionWorkflow, HousekeepingWorkflow


async def ensure_schedules(
    client: Client, request: HousekeepingInput, settings: EngineSettings
) -> None:
    """Creates the schedules of garbage collection and reconciliation, or updates their settings.

    A schedule that somebody has paused stays paused.
    """
    for kind, name in (
        (GarbageCollectionWorkflow.run, names.GC_WORKFLOW),
        (HousekeepingWorkflow.run, names.HOUSEKEEPING_WORKFLOW),
    ):
        schedule = _schedule(kind, name, request, settings)
        try:
            await client.create_schedule(name, schedule)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(name).update(partial(_replaced, schedule))


def _schedule(
    kind: Any, name: str, request: HousekeepingInput, settings: EngineSettings
) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            kind,
            request,
            id=name,
            task_queue=request.projector.engine_queue,
            task_timeout=settings.step_timeout,
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=settings.gc_interval)]),
        # After an outage one turn is enough.
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP, catchup_window=settings.gc_interval
        ),
    )


def _replaced(wanted: Schedule, found: ScheduleUpdateInput) -> ScheduleUpdate:
    state = found.description.schedule.state
    return ScheduleUpdate(dataclasses.replace(wanted, state=state))
