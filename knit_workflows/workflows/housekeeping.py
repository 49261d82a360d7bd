"""`knit.gc` and `knit.housekeep`: started by schedules, each does its turn and ends."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from knit_workflows import names
from knit_workflows.contracts.housekeeping import (
    HousekeepingActivities,
    HousekeepingInput,
    Tidied,
)
from knit_workflows.workflows import options


@workflow.defn(name=names.GC_WORKFLOW, sandboxed=False)
class GarbageCollectionWorkflow:
    """One collection of discarded volumes."""

    @workflow.run
    async def run(self, request: HousekeepingInput) -> Tidied:
        """Collects."""
        return await _turn(
            HousekeepingActivities.collect_garbage,
            request,
            request.projector.compute_queue,
            "delete discarded volumes",
        )


@workflow.defn(name=names.HOUSEKEEPING_WORKFLOW, sandboxed=False)
class HousekeepingWorkflow:
    """One look for what processes that died, or people, have left behind."""

    @workflow.run
    async def run(self, request: HousekeepingInput) -> Tidied:
        """Mends what is lost, removes what is left over; gives the sums."""
        turns = [
            await _turn(
                HousekeepingActivities.restart_lost_runs,
                request,
                request.projector.engine_queue,
                "restart what has lost its workflow",
            ),
            await _turn(
                HousekeepingActivities.end_lost_transfers,
                request,
                request.projector.compute_queue,
                "close transfers without a workflow",
            ),
            await _turn(
                HousekeepingActivities.remove_leftover_pods,
                request,
                request.projector.compute_queue,
                "remove run pods that are over",
            ),
        ]
        return Tidied(
            done=sum(turn.done for turn in turns), failed=sum(turn.failed for turn in turns)
        )


async def _turn(function: Any, request: HousekeepingInput, queue: str, summary: str) -> Tidied:
    tidied: Tidied = await workflow.execute_activity_method(
        function,
        request,
        task_queue=queue,
        start_to_close_timeout=options.TURN,
        heartbeat_timeout=request.heartbeat,
        retry_policy=options.UNTIL_IT_WORKS,
        summary=summary,
    )
    return tidied
