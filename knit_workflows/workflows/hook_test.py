"""`knit.TestHook`: calls one hook with the body of a sample Run, for a user who waits for it."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RetryPolicy

from knit_workflows import names
from knit_workflows.contracts import shown
from knit_workflows.contracts.hook_test import HookTestActivities, HookTestInput, HookTestResult
from knit_workflows.workflows import options


@workflow.defn(name=names.HOOK_TEST_WORKFLOW, sandboxed=False)
class HookTestWorkflow:
    """One test, on the task queue on which hooks are called."""

    @workflow.run
    async def run(self, request: HookTestInput) -> HookTestResult:
        """Calls the hook once: whoever tests it counts calls."""
        return await workflow.execute_activity_method(
            HookTestActivities.test_hook,
            request,
            task_queue=workflow.info().task_queue,
            priority=options.AT_HAND,
            start_to_close_timeout=request.timeout,
            retry_policy=RetryPolicy(maximum_attempts=1),
            summary=shown.summary(f"test {request.url}"),
        )
