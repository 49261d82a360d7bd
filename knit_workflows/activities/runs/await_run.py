"""The activities behind `run_plan`: request a Run, and wait for its end."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity

from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.contracts.runs import (
    AwaitRunActivities,
    EnsureRun,
    FinishedRun,
    OutputData,
    RunRef,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import RunStore


class StoreAwaitRunActivities(AwaitRunActivities):
    """Uses the store alone; waits for Runs that others carry out."""

    def __init__(self, store: RunStore, fallback: timedelta) -> None:
        self._store = store
        self._fallback = fallback

    @activity.defn(name="knit.ensure_run")
    async def ensure_run(self, request: EnsureRun) -> RunRef:
        """Finds or creates the Run; the Projector starts it like any other."""
        inputs = {path: KnitId(knit_id) for path, knit_id in request.inputs.items()}
        with translated():
            key = await self._store.ensure(PlanId(request.plan_id), inputs)
        return RunRef(run_id=key.run_id, generation=key.generation)

    @activity.defn(name="knit.await_run")
    async def await_run(self, request: RunRef) -> FinishedRun:
        """Waits until the Run is final."""
        with translated():
            async with heartbeating():
                run = await self._store.wait_final(RunId(request.run_id), fallback=self._fallback)
        ended = run.summary.exit
        return FinishedRun(
            run_id=run.summary.run_id,
            status=run.summary.status,
            exit_code=ended.code if ended else None,
            exit_message=ended.message if ended else "",
            outputs=tuple(
                OutputData(path=output.path, knit_id=output.knit_id)
                for output in run.outputs
                if output.knit_id is not None
            ),
            log=run.log.knit_id if run.log else None,
        )
