"""For users' own workflows: `run_plan` runs a Plan and awaits its end.

```python
with workflow.unsafe.imports_passed_through():
    from knit_workflows import run_plan

@workflow.defn
class Nightly:
    @workflow.run
    async def run(self, dataset: str) -> str:
        finished = await run_plan("6f0e…", {"/in/data": dataset})
        return finished.outputs[0].knit_id
```
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from temporalio import workflow

from knit_workflows import names
from knit_workflows.contracts import shown
from knit_workflows.contracts.runs import AwaitRunActivities, EnsureRun, FinishedRun
from knit_workflows.workflows import options


async def run_plan(
    plan_id: str, inputs: Mapping[str, str], *, task_queue: str = names.ENGINE_QUEUE
) -> FinishedRun:
    """Requests the Run of a Plan with exactly these inputs (path → knit id), and awaits its end.

    The Run is shared: if it exists already, in whatever status, that one is awaited, so a second
    request never runs it twice. A failed Run is a result (`status == "failed"`), not an error.
    `task_queue` is that of knit's engine workers.

    Raises:
        ActivityError: the Plan or a Data is unknown, or a Data does not satisfy its input.
    """
    ref = await workflow.execute_activity_method(
        AwaitRunActivities.ensure_run,
        EnsureRun(plan_id=plan_id, inputs=dict(inputs)),
        task_queue=task_queue,
        start_to_close_timeout=options.SHORT,
        retry_policy=options.UNTIL_IT_WORKS,
        summary=shown.summary(f"request a Run of {plan_id}"),
    )
    return await workflow.execute_activity_method(
        AwaitRunActivities.await_run,
        ref,
        task_queue=task_queue,
        start_to_close_timeout=options.LONG,
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=options.AT_ONCE,
        summary=f"wait for Run {ref.run_id}",
    )
