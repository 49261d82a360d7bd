"""How soon a killed worker is missed is a setting, for every type of workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from temporalio.client import ScheduleActionStartWorkflow, WorkflowHandle

from knit_workflows import names
from knit_workflows.client import KnitClient
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import QUICK, KnitEnvironment, knit_environment

TIMES = QUICK.model_copy(
    update={
        "heartbeat": timedelta(seconds=7),
        "step_timeout": timedelta(seconds=8),
        "projector_heartbeat": timedelta(seconds=6),
        "gc_interval": timedelta(hours=1),
    }
)


async def times_of(handle: WorkflowHandle[object, object]) -> Mapping[str, timedelta]:
    """Gives what Temporal was told: the time-out of a step, and of the activities' heartbeats."""
    found = {}
    for event in (await handle.fetch_history()).events:
        if event.HasField("workflow_execution_started_event_attributes"):
            started = event.workflow_execution_started_event_attributes
            found["step"] = started.workflow_task_timeout.ToTimedelta()
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled = event.activity_task_scheduled_event_attributes
            found[scheduled.activity_type.name] = scheduled.heartbeat_timeout.ToTimedelta()
    return found


async def turn_of(knit: KnitEnvironment, kind: str) -> WorkflowHandle[object, object]:
    """Has a schedule's turn, and gives its workflow."""
    schedule = knit.temporal.get_schedule_handle(kind)
    action = (await schedule.describe()).schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    assert action.task_timeout == TIMES.step_timeout
    await schedule.trigger()
    while not (taken := (await schedule.describe()).info.recent_actions):
        await asyncio.sleep(0.05)
    started = taken[-1].action
    handle = knit.temporal.get_workflow_handle(started.workflow_id)  # type: ignore[attr-defined]
    await handle.result()
    return handle


async def test_they_reach_temporal(postgres: EmbeddedPostgres) -> None:
    """Otherwise a worker's death would stop pushes, or tidying up, for longer than was asked."""
    async with knit_environment(postgres=postgres, engine=TIMES) as knit:
        await knit.kept()
        client = KnitClient(
            knit.temporal,
            heartbeat=TIMES.heartbeat,
            step_timeout=TIMES.step_timeout,
            queues=knit.deps.queues,
        )
        upload = await client.open_upload()
        await client.finish(upload, ok=True)
        transfer = knit.temporal.get_workflow_handle(names.transfer_workflow(upload.transfer_id))
        assert await times_of(transfer) == {
            "step": TIMES.step_timeout,
            "knit.open_transfer": TIMES.heartbeat,
            "knit.close_transfer": TIMES.heartbeat,
        }
        projector = knit.temporal.get_workflow_handle(names.projector_workflow(0))
        while len(told := await times_of(projector)) < 2:  # its first step is on its way
            await asyncio.sleep(0.05)
        assert told == {
            "step": TIMES.projector_heartbeat,
            "knit.drain_outbox": TIMES.projector_heartbeat,
        }
        assert await times_of(await turn_of(knit, names.GC_WORKFLOW)) == {
            "step": TIMES.step_timeout,
            "knit.collect_garbage": TIMES.heartbeat,
        }
        housekeeping = await times_of(await turn_of(knit, names.HOUSEKEEPING_WORKFLOW))
        assert set(housekeeping.values()) == {TIMES.step_timeout, TIMES.heartbeat}
