"""`knit.gc` and `knit.housekeep`: started by schedules, each does its turn and ends."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from knit_workflows import names
from knit_workflows.contracts.housekeeping import (
    HousekeepingActivities,
    HousekeepingInput,
    HousekeepingResult,
)
from knit_workflows.workflows import options


@workflow.defn(name=names.GC_WORKFLOW, sandboxed=False)
class GarbageCollectionWorkflow:
    """One collection of discarded volumes."""

    @workflow.run
    async def run(self, request: HousekeepingInput) -> HousekeepingResult:
        """Collects."""
        return await _turn(
            HousekeepingActivities.collect_garbage,
            request,
            request.projector.compute_queue,
            "delete discarded volumes",
        )


@workflow.defn(name=names.HOUSEKEEPING_WORKFLOW, sandboxed=False)
class HousekeepingWorkflow:
    """One reconciliation of the store with Temporal and the back-end."""

    @workflow.run
    async def run(self, request: HousekeepingInput) -> HousekeepingResult:
        """Restarts what is lost and removes what is orphaned; gives the sums."""
        results = [
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
        return HousekeepingResult(
            done=sum(one.done for one in results), failed=sum(one.failed for one in results)
        )


async def _turn(
    function: Any, request: HousekeepingInput, queue: str, summary: str
) -> HousekeepingResult:
    result: HousekeepingResult = await workflow.execute_activity_method(
        function,
        request,
        task_queue=queue,
        start_to_close_timeout=options.TURN,
        heartbeat_timeout=request.heartbeat,
        retry_policy=options.UNTIL_IT_WORKS,
        summary=summary,
    )
    return result
