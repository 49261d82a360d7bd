"""The activities behind `run_plan`: request a Run, and wait for its end."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.worker_stops import until_worker_stops
from knit_workflows.contracts.runs import (
    AwaitRunActivities,
    EnsureRun,
    FinishedRun,
    OutputData,
    RunRef,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import RunStore
from knit_workflows.domain.runs.run import RunDetail


class StoreAwaitRunActivities(AwaitRunActivities):
    """Uses the store alone; waits for Runs that others carry out."""

    def __init__(self, store: RunStore, fallback: timedelta, *, most_waiting: int) -> None:
        """`most_waiting` is how many of these activities may keep their slot while they wait.

        The Projector needs one of the same slots, and without it no Run would ever end.
        """
        self._store = store
        self._fallback = fallback
        self._most_waiting = most_waiting
        self._waiting = 0

    @activity.defn(name="knit.ensure_run")
    async def ensure_run(self, request: EnsureRun) -> RunRef:
        """Finds or creates the Run; the Projector starts it like any other."""
        inputs = {path: KnitId(knit_id) for path, knit_id in request.inputs.items()}
        with translated():
            key = await self._store.ensure(PlanId(request.plan_id), inputs)
        return RunRef(run_id=key.run_id, generation=key.generation)

    @activity.defn(name="knit.await_run")
    async def await_run(self, request: RunRef) -> FinishedRun:
        """Waits until the Run is final.

        Raises:
            ApplicationError: too many wait already, and it is not final yet; Temporal tries again.
        """
        run_id = RunId(request.run_id)
        with translated():
            async with heartbeating():
                if self._waiting < self._most_waiting:
                    run = await self._waited_for(run_id)
                else:
                    run = await self._looked_up(run_id)
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

    async def _waited_for(self, run_id: RunId) -> RunDetail:
        """Gives a Run once it is final."""
        self._waiting += 1
        try:
            async with until_worker_stops():
                return await self._store.wait_final(run_id, fallback=self._fallback)
        finally:
            self._waiting -= 1

    async def _looked_up(self, run_id: RunId) -> RunDetail:
        """Gives a Run that is final already; leaves the next look to another attempt."""
        run = await self._store.get(run_id)
        if run.summary.status.is_final:
            return run
        raise ApplicationError(
            f"the Run {run_id} is {run.summary.status}",
            type="NotFinal",
            next_retry_delay=self._fallback,
            category=ApplicationErrorCategory.BENIGN,
        )
