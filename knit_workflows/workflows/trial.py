"""`knit.TryPlan`: asks the back-end about a Plan, for the API, which has no rights on it."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RetryPolicy

from knit_workflows import names
from knit_workflows.contracts.trials import TrialActivities, TrialInput, TrialResult, TryPlan
from knit_workflows.workflows import options


@workflow.defn(name=names.TRIAL_WORKFLOW, sandboxed=False)
class TrialWorkflow:
    """One question; it changes nothing, so nothing is lost with it."""

    @workflow.run
    async def run(self, request: TrialInput) -> TrialResult:
        """Asks; a user waits, so only a worker that died is replaced."""
        return await workflow.execute_activity_method(
            TrialActivities.try_plan,
            TryPlan(document=request.document),
            task_queue=request.compute_queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=request.heartbeat,
            retry_policy=RetryPolicy(maximum_attempts=3),
            summary="what the back-end would refuse of a Plan",
        )
