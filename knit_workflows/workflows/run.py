"""`knit.Run`: carries out one generation of a Run.

While no hooks are in force, activities record each change in the store as they see it:
```
launch_run ──► watch_run ───────────────────────────────►
     │  │          │ stop, cancellation
     │  └──────────┴────► stop_run ──► finalize_run ────►
     └── a short Run is over already ───────────────────►
```
Once there are hooks, the Run is a sequence of transitions, each of them
```
call_before_hooks ──► create_volumes, create_pod, ──► call_after_hooks (not awaited)
   ▲   │ not yet      record_evidence or finalize_run
   └───┘ timer
```
with `watch_pod` between them while the container runs. This workflow decides what comes next.

If the pod was disrupted, `relaunch_run` ends this generation of the Run, and makes the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

from knit_workflows import names
from knit_workflows.contracts import shown
from knit_workflows.contracts.hooks import BeforeAnswer, CallHooks, HookActivities
from knit_workflows.contracts.runs import (
    Evidence,
    HookCounts,
    Pending,
    Progress,
    RecordEvidence,
    RelaunchRun,
    RunActivities,
    RunInput,
    RunRef,
    RunResult,
    Step,
    StopAccepted,
    Stopped,
    StopRun,
    StopUpdate,
)
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.workflows import options

_LAUNCH: Final = "create volumes and the run pod; see a short Run through"
_TOLD_WITHIN: Final = timedelta(minutes=1)
"""How long a disrupted Run waits for its After hooks before it is launched again."""
STATUS: Final = SearchAttributeKey.for_keyword(names.ATTRIBUTE_STATUS)


class _Relaunched(Exception):
    """The Run goes on as its next generation, with a workflow of its own."""


@workflow.defn(name=names.RUN_WORKFLOW, sandboxed=False)
class RunWorkflow:
    """One Run, from its admission until it is done or failed."""

    @workflow.init
    def __init__(self, request: RunInput) -> None:
        self._request = request
        self._ref = RunRef(run_id=request.run_id, generation=request.generation)
        self._queue = request.compute_queue
        self._stop_queue = request.interactive_queue or request.compute_queue
        self._heartbeat = request.heartbeat
        self._phase = RunStatus.WAITING
        self._pending: Pending | None = None
        self._pod_ended = False
        self._cancelled = False
        self._stop: StopUpdate | None = None
        self._exit_code: int | None = None
        self._exit_message = ""
        self._notes: tuple[str, ...] = ()
        self._timing: tuple[str, ...] = ()
        self._hooks = HookCounts()
        self._evidence: Evidence | None = None
        self._attempts = request.hook_attempts
        self._hook_skipped = False
        self._telling: asyncio.Task[None] | None = None

    @workflow.run
    async def run(self, request: RunInput) -> RunResult:
        """Launches, watches, finalizes; a stop or a cancellation ends the watch early."""
        try:
            await self._carry_out()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, _Relaunched) or _superseded(error):
                return RunResult(status="superseded")
            if not is_cancelled_exception(error):
                raise
            if await self._end_cancelled():
                raise
            return RunResult(status="superseded")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return RunResult(
            status=self._phase, exit_code=self._exit_code, exit_message=self._exit_message
        )

    @workflow.update
    async def stop(self, request: StopUpdate) -> StopAccepted:
        """Accepts a user's stop, which the store has already; this makes it prompt."""
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

    @workflow.signal
    def hook_skipped(self) -> None:
        """Learns that a user lets the Run go on without a hook; the next try will see which."""
        self._hook_skipped = True

    @workflow.query
    def status(self) -> str:
        """Gives the status as this execution knows it."""
        return self._phase

    async def _end_cancelled(self) -> bool:
        """Ends a Run cancelled in Temporal like a user's stop --fail, clean-up included.

        False: it came too late, for the Run has been launched again.
        """
        self._cancelled = True
        try:
            stopped = await self._end_pod(abort=True)
            if not stopped.status.is_final:
                self._phase = stopped.status
                await self._go_on(await self._next(Progress(status=stopped.status)))
        except ActivityError as error:
            if _superseded(error):
                return False
            raise
        return True

    async def _carry_out(self) -> None:
        await self._go_on(self._request.progress or await self._launch())

    async def _go_on(self, progress: Progress) -> None:
        """Goes on until the Run has ended and its hooks have been told of it."""
        while True:
            self._enter(progress)
            if progress.status.is_final:
                break
            progress = await self._next(progress)
        if not self._pod_ended:
            # An attempt before has committed the lineage, and died before it released the pod.
            await self._end_pod(abort=False)
        if self._telling is not None:
            await self._telling

    async def _next(self, progress: Progress) -> Progress:
        """Takes the Run one transition further, or learns what the next one is."""
        status, evidence = progress.status, progress.evidence
        self._evidence = evidence
        if evidence is not None and evidence.disruption:
            return await self._relaunch(evidence)
        if evidence is not None:
            summary = f"record → {evidence.target}: {evidence.cause}"
            record = RunActivities.record_evidence
            return await self._transition(evidence.target, record, summary, evidence=evidence)
        if status is RunStatus.WAITING:
            create = RunActivities.create_volumes
            return await self._transition(RunStatus.READY, create, "create volumes")
        if status is RunStatus.READY:
            create = RunActivities.create_pod
            return await self._transition(RunStatus.STARTING, create, "create the run pod")
        if status.is_under_way:
            return await self._watch()
        if not self._pod_ended:
            await self._end_pod(abort=False)
        target = RunStatus.DONE if status is RunStatus.COMPLETING else RunStatus.FAILED
        summary = "commit the lineage, release the run pod"
        return await self._transition(target, RunActivities.finalize_run, summary)

    async def _transition(
        self,
        target: RunStatus,
        step: Callable[..., Awaitable[Progress]],
        summary: str,
        **details: Evidence,
    ) -> Progress:
        """Makes one transition: its Before hooks, the step, its After hooks."""
        source, hooked = self._phase, bool(self._hooks)
        if self._hooks.before:
            moved = await self._ask_before(target)
            self._attempts = 0
            if moved is not None:
                return moved
        kind = RecordEvidence if details else Step
        asked = self._hooks.asked if hooked else None
        request = kind(**self._ref.model_dump(), hooks_called=hooked, asked=asked, **details)
        progress: Progress = await workflow.execute_activity_method(
            step,
            request,
            task_queue=self._queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=shown.summary(summary),
        )
        self._raise_if_cancelled(progress)
        after = (self._hooks if progress.hooks is None else progress.hooks).after
        if progress.status is target and after:
            call = self._call(source, target, 1)
            self._telling = asyncio.create_task(self._tell_after(call, after, self._telling))
        return progress

    async def _ask_before(self, target: RunStatus) -> Progress | None:
        """Asks the Before hooks until all agree; a Progress if the Run moves on without that."""
        source = self._phase
        while True:
            self._hook_skipped = False
            self._attempts += 1
            answer = await self._call_before(source, target)
            if self._stops(source):
                return self._stopped()
            if answer is None:
                continue
            self._hooks = answer.hooks
            self._pending = Pending(status=source, reason=answer.failure)
            self._show()
            if answer.status is not source:
                return Progress(status=answer.status)
            if not answer.failure:
                return None
            await self._pause(source, answer)

    async def _call_before(self, source: RunStatus, target: RunStatus) -> BeforeAnswer | None:
        """Asks the Before hooks once; None: a stop, or a hook that is skipped, comes first."""
        words = [f"before → {target}: {_count(self._hooks.before)}", f"try {self._attempts}"]
        if self._pending is not None and self._pending.reason:
            words.append(self._pending.reason)
        call = workflow.start_activity_method(
            HookActivities.call_before_hooks,
            self._call(source, target, self._attempts),
            task_queue=self._request.hooks_queue,
            priority=options.AT_HAND,  # a Run waits for this, and for no After hook
            start_to_close_timeout=options.LONG,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=shown.summary(", ".join(words)),
        )
        await workflow.wait_condition(
            lambda: call.done() or self._stops(source) or self._hook_skipped
        )
        if call.done():
            return await call
        _abandon(call)
        return None

    async def _pause(self, source: RunStatus, answer: BeforeAnswer) -> None:
        """Waits until the Before hooks are to be asked again, or need not be."""
        told = self._telling
        if workflow.info().is_continue_as_new_suggested() and (told is None or told.done()):
            so_far = {"progress": self._so_far(), "hook_attempts": self._attempts}
            workflow.continue_as_new(self._request.model_copy(update=so_far))
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._stops(source) or self._hook_skipped,
                timeout=answer.retry_in,
                timeout_summary=shown.summary(f"until hooks are asked again: {answer.failure}"),
            )

    async def _tell_after(
        self, call: CallHooks, count: int, before: asyncio.Task[None] | None
    ) -> None:
        """Tells the After hooks, once those of the transition before have been told."""
        if before is not None:
            await before
        try:
            await workflow.execute_activity_method(
                HookActivities.call_after_hooks,
                call,
                task_queue=self._request.hooks_queue,
                start_to_close_timeout=options.LONG,
                heartbeat_timeout=self._heartbeat,
                retry_policy=options.UNTIL_IT_WORKS,
                summary=shown.summary(f"after → {call.target}: {_count(count)}"),
            )
        except ActivityError as error:
            if not _superseded(error):
                raise

    def _call(self, source: RunStatus, target: RunStatus, attempt: int) -> CallHooks:
        return CallHooks(**self._ref.model_dump(), source=source, target=target, attempt=attempt)

    def _stops(self, status: RunStatus) -> bool:
        """Says whether a user stops the Run; one that is ending already only goes on."""
        return self._stop is not None and not status.is_ending

    def _stopped(self) -> Progress:
        """Gives the status that a user's stop has put on record."""
        fail = self._stop is not None and self._stop.fail
        return Progress(status=RunStatus.ABORTING if fail else RunStatus.COMPLETING)

    async def _launch(self) -> Progress:
        progress = await self._launch_at_once() or await self._launch_elsewhere()
        self._raise_if_cancelled(progress)
        return progress

    async def _launch_at_once(self) -> Progress | None:
        """Launches within the workflow's own task; None: not to be done, or it has failed once.

        Temporal has nothing to do with it but to note how it has ended: of a short Run, its end.
        """
        if self._request.launch_within is None:
            return None
        try:
            return await workflow.execute_local_activity_method(
                RunActivities.launch_run,
                self._ref,
                start_to_close_timeout=self._request.launch_within,
                retry_policy=options.ONCE,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=shown.summary(_LAUNCH),
            )
        except FailureError as error:
            # Temporal's core gives the failure of such an activity itself, or wrapped as others'.
            if _superseded(error) or is_cancelled_exception(error):
                raise
            return None

    async def _launch_elsewhere(self) -> Progress:
        progress: Progress = await workflow.execute_activity_method(
            RunActivities.launch_run,
            self._ref,
            task_queue=self._queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=_LAUNCH,
        )
        return progress

    def _raise_if_cancelled(self, progress: Progress) -> None:
        """Raises a cancellation that the success of a step has swallowed.

        Steps are awaited, because no pod may be started after a stop.
        """
        cancelled = workflow.cancellation_reason() is not None
        if cancelled and not self._cancelled and not progress.status.is_final:
            raise asyncio.CancelledError

    async def _watch(self) -> Progress:
        """Watches the run pod to its end (or its next transition), or until a user's stop."""
        watch = workflow.start_activity_method(
            RunActivities.watch_pod if self._hooks else RunActivities.watch_run,
            self._ref,
            task_queue=self._request.watch_queue,
            start_to_close_timeout=options.LONG,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.AT_ONCE,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=self._until(),
        )
        await workflow.wait_condition(lambda: watch.done() or self._stop is not None)
        if watch.done():
            return await watch
        _abandon(watch)
        return self._stopped()

    async def _relaunch(self, evidence: Evidence) -> Progress:
        """Has a Run whose pod was disrupted go on as its next generation, if that may still be.

        Raises:
            _Relaunched: it does.
        """
        if await self._stopped_before_told():
            return self._stopped()
        self._pending = Pending(status=self._phase, reason=f"disrupted: {evidence.disruption}")
        self._show()
        relaunch = workflow.start_activity_method(
            RunActivities.relaunch_run,
            RelaunchRun(**self._ref.model_dump(), evidence=evidence),
            task_queue=self._request.watch_queue,
            start_to_close_timeout=options.LONG,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.AT_ONCE,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=shown.summary(f"launch again once the run pod is gone: {evidence.disruption}"),
        )
        await workflow.wait_condition(lambda: relaunch.done() or self._stop is not None)
        if not relaunch.done():
            _abandon(relaunch)
            return self._stopped()
        progress = await relaunch
        if progress.status in (RunStatus.WAITING, RunStatus.DEACTIVATED):
            raise _Relaunched
        return progress

    async def _stopped_before_told(self) -> bool:
        """Waits for this generation's hooks to be told, but not for ever; True: a stop came first.

        Calls that last longer may end among those of the next generation; those that have not begun
        by then are not made.
        """
        told = self._telling
        if told is None or told.done():
            return False
        if not workflow.patched("a-relaunch-waits-a-while-for-hooks"):
            await told
            return False
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: told.done() or self._stop is not None,
                timeout=_TOLD_WITHIN,
                timeout_summary="until the hooks are told of what was before",
            )
        return self._stop is not None

    def _until(self) -> str:
        starts = self._hooks and self._phase is RunStatus.STARTING
        return f"until the container has {'started' if starts else 'ended'}"

    async def _end_pod(self, *, abort: bool) -> Stopped:
        stopped = await workflow.execute_activity_method(
            RunActivities.stop_run,
            StopRun(run_id=self._ref.run_id, generation=self._ref.generation, abort=abort),
            task_queue=self._stop_queue,
            priority=options.AT_HAND,
            start_to_close_timeout=options.LONG,
            heartbeat_timeout=self._heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            summary="kill the run pod, wait until it is gone",
        )
        self._pod_ended = True
        return stopped

    def _enter(self, progress: Progress) -> None:
        """Remembers the progress, and shows it in Temporal's Web UI."""
        self._phase = progress.status
        self._pod_ended = self._pod_ended or progress.pod_ended
        self._hooks = self._hooks if progress.hooks is None else progress.hooks
        if progress.exit_code is not None:
            self._exit_code, self._exit_message = progress.exit_code, progress.exit_message
        self._notes = progress.notes or self._notes
        self._timing = progress.timing or self._timing
        self._show()
        if self._request.search_attributes:
            workflow.upsert_search_attributes([STATUS.value_set(shown.keyword(self._phase))])

    def _so_far(self) -> Progress:
        """Gives how far the Run is, for another execution to go on from there.

        The evidence of what moves it next is part of that, since it need not be seen again: a
        back-end may not refuse the pod once more, or no longer know one that has ended.
        """
        return Progress(
            status=self._phase,
            pod_ended=self._pod_ended,
            exit_code=self._exit_code,
            exit_message=self._exit_message,
            notes=self._notes,
            hooks=self._hooks,
            evidence=self._evidence,
        )

    def _show(self) -> None:
        text = f"**{self._phase}**"
        pending = self._pending
        # This execution never sees `ready`: until its launch is over, the reporter knows better.
        if pending and pending.reason and self._phase in (RunStatus.WAITING, pending.status):
            text = f"**{pending.status}**: {pending.reason}"
        if self._exit_code is not None:
            text += f", exit code {self._exit_code} {self._exit_message}"
        text += "".join(f"\n\n{note}" for note in self._notes)
        text += "\n\n" * bool(self._timing) + "\n".join(f"* {line}" for line in self._timing)
        workflow.set_current_details(shown.details(text))


def _abandon(activity: workflow.ActivityHandle[Any]) -> None:
    """Cancels an activity whose result does not matter any more."""
    # Nobody awaits it; an unretrieved exception would be logged as an error.
    activity.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    activity.cancel()


def _count(hooks: int) -> str:
    return f"{hooks} hook{'' if hooks == 1 else 's'}"


def _superseded(error: BaseException) -> bool:
    """Says whether the Run was deleted, retried or deactivated meanwhile."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return isinstance(cause, ApplicationError) and cause.type in {"Superseded", "RunNotFound"}
