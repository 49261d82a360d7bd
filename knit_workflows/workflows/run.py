"""`knit.Run`: carries out one generation of a Run.

```
launch_run ──► watch_run ──────────────► finalize_run ──►
     │  │          │ stop, cancellation       ▲
     │  └──────────┴────► stop_run ───────────┘
     └── a short Run is over already ───────────────────►
```
The store is moved by the activities, each change as it happens; this workflow owns the progress.
"""

from __future__ import annotations

import asyncio
from typing import Final

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from knit_workflows import names
from knit_workflows.contracts import shown
from knit_workflows.contracts.runs import (
    Pending,
    Progress,
    RunActivities,
    RunInput,
    RunRef,
    RunResult,
    StopAccepted,
    StopRun,
    StopUpdate,
)
from knit_workflows.domain.runs import RunStatus
from knit_workflows.workflows import options

STATUS: Final = SearchAttributeKey.for_keyword(names.ATTRIBUTE_STATUS)


@workflow.defn(name=names.RUN_WORKFLOW, sandboxed=False)
class RunWorkflow:
    """One Run, from admission to done or failed."""

    @workflow.init
    def __init__(self, request: RunInput) -> None:
        self._ref = RunRef(run_id=request.run_id, generation=request.generation)
        self._queue = request.compute_queue
        self._watch_queue = request.watch_queue
        self._stop_queue = request.interactive_queue or request.compute_queue
        self._heartbeat = request.heartbeat
        self._attributes = request.search_attributes
        self._phase = RunStatus.WAITING
        self._pending: Pending | None = None
        self._stop: StopUpdate | None = None
        self._exit_code: int | None = None
        self._exit_message = ""
        self._notes: tuple[str, ...] = ()

    @workflow.run
    async def run(self, request: RunInput) -> RunResult:
        """Launches, watches, finalizes; a stop or a cancellation cuts the watch short."""
        try:
            await self._carry_out()
        except (Exception, asyncio.CancelledError) as error:
            if _superseded(error):
                return RunResult(status="superseded")
            if not is_cancelled_exception(error):
                raise
            # Cancelled from outside knit: the same as a user's stop --fail, clean-up included.
            await self._end_pod(abort=True)
            await self._finalize()
            raise
        await workflow.wait_condition(workflow.all_handlers_finished)
        return RunResult(
            status=self._phase, exit_code=self._exit_code, exit_message=self._exit_message
        )

    @workflow.update
    async def stop(self, request: StopUpdate) -> StopAccepted:
        """Accepts a user's stop; the store has it already, this only makes it prompt."""
        self._stop = self._stop or request
        return StopAccepted(phase=self._phase)

    @workflow.signal
    def started(self) -> None:
        """Learns from the watch that the container runs; sent only if it runs for a while."""
        if self._phase is RunStatus.STARTING:
            self._enter(Progress(status=RunStatus.RUNNING))

    @workflow.signal
    def pending(self, reason: Pending) -> None:
        """Learns why the Run is pending, to show it in the Web UI."""
        self._pending = reason
        self._show()

    @workflow.query
    def status(self) -> str:
        """Gives the Run's status as this execution knows it."""
        return self._phase

    async def _carry_out(self) -> None:
        progress = await self._launch()
        self._enter(progress)
        if progress.status.is_under_way:
            progress = await self._watch()
            self._enter(progress)
        if not progress.pod_ended:
            await self._end_pod(abort=False)
        if not progress.status.is_final:
            await self._finalize()

    async def _launch(self) -> Progress:
        progress = await workflow.execute_activity_method(
            RunActivities.launch_run,
            self._ref,
            task_queue=self._queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary="create volumes and the run pod; see a short one through",
        )
        if workflow.cancellation_reason() is not None and not progress.status.is_final:
            # The launch is waited for, as no pod may be started behind a stop; that it ended well
            # has made this coroutine forget the cancellation.
            raise asyncio.CancelledError
        return progress

    async def _watch(self) -> Progress:
        """Watches the run pod to its end, or until the user stops the Run."""
        watch = workflow.start_activity_method(
            RunActivities.watch_run,
            self._ref,
            task_queue=self._watch_queue,
            start_to_close_timeout=options.LONG,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.AT_ONCE,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary="until the container has ended",
        )
        await workflow.wait_condition(lambda: watch.done() or self._stop is not None)
        if watch.done():
            return await watch
        # Nobody waits for its end; unheard, it would be logged as a fault when the handle goes.
        watch.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        watch.cancel()
        fail = self._stop is not None and self._stop.fail
        return Progress(status=RunStatus.ABORTING if fail else RunStatus.COMPLETING)

    async def _end_pod(self, *, abort: bool) -> None:
        await workflow.execute_activity_method(
            RunActivities.stop_run,
            StopRun(run_id=self._ref.run_id, generation=self._ref.generation, abort=abort),
            task_queue=self._stop_queue,
            priority=options.AT_HAND,
            start_to_close_timeout=options.LONG,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            summary="kill the run pod, wait until it is gone",
        )

    async def _finalize(self) -> None:
        finalized = await workflow.execute_activity_method(
            RunActivities.finalize_run,
            self._ref,
            task_queue=self._queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            summary="commit the lineage, release the run pod",
        )
        self._enter(Progress(status=finalized.status))

    def _enter(self, progress: Progress) -> None:
        """Takes note of how far the Run is, and shows it in Temporal's Web UI."""
        self._phase = progress.status
        if progress.exit_code is not None:
            self._exit_code, self._exit_message = progress.exit_code, progress.exit_message
        self._notes = progress.notes or self._notes
        self._show()
        if self._attributes:
            workflow.upsert_search_attributes([STATUS.value_set(shown.keyword(self._phase))])

    def _show(self) -> None:
        text = f"**{self._phase}**"
        pending = self._pending
        # This execution does not hear of `ready`: until its launch is over, the teller is right.
        if pending and pending.reason and self._phase in (RunStatus.WAITING, pending.status):
            text = f"**{pending.status}**: {pending.reason}"
        if self._exit_code is not None:
            text += f", exit code {self._exit_code} {self._exit_message}"
        text += "".join(f"\n\n{note}" for note in self._notes)
        workflow.set_current_details(shown.details(text))


def _superseded(error: BaseException) -> bool:
    """Says whether the Run was deleted, retried or deactivated away from this execution."""
    cause = error.cause if isinstance(error, ActivityError) else None
    return isinstance(cause, ApplicationError) and cause.type in {"Superseded", "RunNotFound"}
