"""The activities of `knit.Run`: its steps, each with the record of what it has brought about.

While no hooks are in force, neighbouring steps share an activity (`launch_run`, `watch_run`), and
each change is recorded as soon as it is seen. With hooks every step is an activity of its own, and
what it sees is recorded by another one, so that hooks can be called in between.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.runs.bunches import in_bunches, one_by_one
from knit_workflows.activities.runs.pending_reasons import (
    ENDING,
    UNDER_WAY,
    PendingReporter,
    signal_workflow,
)
from knit_workflows.activities.runs.record import RunRecord, log_status
from knit_workflows.activities.runs.steps import (
    RunSteps,
    is_lost,
    not_ended,
    refused,
    started,
)
from knit_workflows.activities.worker_stops import until_worker_stops
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.contracts.runs import (
    Evidence,
    Progress,
    RecordEvidence,
    RelaunchRun,
    RunActivities,
    RunRef,
    Step,
    Stopped,
    StopRun,
)
from knit_workflows.domain.errors import BackendRejected, HooksNotCalled, IllegalMove
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import (
    HookStore,
    RunExecutionStore,
    RunKey,
    RunSpec,
    UsedResources,
)
from knit_workflows.domain.runs.run import USER, Exit, RunStatus
from knit_workflows.settings import EngineSettings

log = logging.getLogger(__name__)

READERS_AGAIN_AFTER: Final = timedelta(seconds=1)
"""How soon a Run is launched again once nobody reads its outputs."""
TOGETHER: Final = timedelta(milliseconds=5)
"""What is seen of a pod within this time is recorded together: the start of a container and its end
moments later cost one transaction."""
_NOT_GONE: Final = "the run pod has had its time to end"
"""The heartbeat detail by which the next attempt of a stop knows that of the pod."""
CANCELLED: Final = Exit(253, "cancelled in Temporal")
SIGNAL_AFTER: Final = timedelta(seconds=2)
"""How long a container has run before its workflow is told: a signal costs a workflow task, which
the many short Runs need not pay."""


class ComputeRunActivities(RunActivities):
    """The activities of `knit.Run`, on a store and a compute back-end."""

    def __init__(
        self,
        store: RunExecutionStore,
        hooks: HookStore,
        backend: ComputeBackend,
        settings: EngineSettings,
    ) -> None:
        self._store = store
        self._steps = RunSteps(backend, settings)
        self._record = RunRecord(store, hooks, self._steps)
        self._settings = settings

    @activity.defn(name="knit.launch_run")
    async def launch_run(self, request: RunRef) -> Progress:
        """Creates the volumes (→ ready) and the run pod (→ starting); sees a short Run through.

        A repeated attempt goes on where the last one stopped, as the status in the store says. Once
        the Run is starting, no pod is ever created again.
        """
        key = _key(request)
        with translated():
            async with heartbeating():
                try:
                    return await self._launched(key)
                except HooksNotCalled:
                    return await self._record.with_hooks(key)

    @activity.defn(name="knit.watch_run")
    async def watch_run(self, request: RunRef) -> Progress:
        """Watches until the container has started (→ running), then ended (→ done or failed)."""
        key = _key(request)
        with translated():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(heartbeating())
                await stack.enter_async_context(until_worker_stops())
                reporter = PendingReporter(self._store, key, nothing_recorded=False)
                await stack.enter_async_context(reporter.failures(RunStatus.STARTING))
                changes = await stack.enter_async_context(
                    aclosing(self._recorded(key, reporter, None))
                )
                signalling: asyncio.Task[None] | None = None
                stack.callback(lambda: signalling and signalling.cancel())
                try:
                    async for progress in changes:
                        if not progress.status.is_under_way or progress.evidence is not None:
                            return progress
                        signalling = signalling or asyncio.create_task(_signal_started())
                except HooksNotCalled:
                    return await self._record.with_hooks(key)
        raise AssertionError("a watch ends only with its pod")

    @activity.defn(name="knit.stop_run")
    async def stop_run(self, request: StopRun) -> Stopped:
        """Kills the run pod and waits until it is gone; a Run that never had one is fine.

        Raises:
            ApplicationError: it is still there; Temporal tries again. Those that wait for pods
                that cannot go, as on a lost node, would take the slots of transfers.
        """
        key = RunKey(RunId(request.run_id), request.generation)
        with translated():
            async with heartbeating():
                if request.abort:
                    await self._store.advance(
                        key, RunStatus.ABORTING, cause=CANCELLED.message, exit=CANCELLED, actor=USER
                    )
                reporter = PendingReporter(self._store, key, nothing_recorded=False)
                async with reporter.failures(*ENDING):
                    # Not by the number of the attempt: an outage costs attempts too.
                    late = _NOT_GONE in activity.info().heartbeat_details
                    gone = await self._steps.stop(key, briefly=late)
                    if not gone:
                        log.info(
                            "run pod is still there",
                            extra={"action": "stop_repeated", "run_id": key.run_id},
                        )
                        await reporter.pod_not_gone()
                if not gone:
                    activity.heartbeat(_NOT_GONE)
                    raise _not_gone(self._settings.stop_retry_interval)
                spec = await self._store.spec(key)
        return Stopped(status=spec.status)

    @activity.defn(name="knit.finalize_run")
    async def finalize_run(self, request: Step) -> Progress:
        """Commits the lineage (→ done, failed), then releases the run pod."""
        key = _key(request)
        with translated():
            async with heartbeating():
                try:
                    ended = await self._record.finalize(
                        key, hooks_called=request.hooks_called, asked=request.asked
                    )
                except HooksNotCalled:
                    return await self._record.with_hooks(key)
                hooks = await self._record.hook_counts() if request.hooks_called else None
        return ended.model_copy(update={"hooks": hooks})

    @activity.defn(name="knit.create_volumes")
    async def create_volumes(self, request: Step) -> Progress:
        """Creates the volumes (→ ready)."""
        return await self._taken(request, RunStatus.WAITING)

    @activity.defn(name="knit.create_pod")
    async def create_pod(self, request: Step) -> Progress:
        """Creates the run pod (→ starting)."""
        return await self._taken(request, RunStatus.READY)

    @activity.defn(name="knit.watch_pod")
    async def watch_pod(self, request: RunRef) -> Progress:
        """Watches until there is evidence for the Run's next status, and gives it.

        A Run is never completing before it was running, however quickly its container ends.
        """
        key = _key(request)
        with translated():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(heartbeating())
                await stack.enter_async_context(until_worker_stops())
                status = (await self._store.spec(key)).status
                if not status.is_under_way:
                    return await self._record.with_hooks(key)
                reporter = PendingReporter(self._store, key, nothing_recorded=False)
                await stack.enter_async_context(reporter.failures(status))
                changes = await stack.enter_async_context(aclosing(self._seen(key, reporter)))
                async for evidence in changes:
                    if (news := _next_evidence(status, evidence)) is not None:
                        hooks = await self._record.hook_counts()
                        return Progress(status=status, hooks=hooks, evidence=news)
        raise AssertionError("a watch ends only with its pod")

    @activity.defn(name="knit.record_evidence")
    async def record_evidence(self, request: RecordEvidence) -> Progress:
        """Moves the Run as its evidence says."""
        key, evidence = _key(request), request.evidence
        with translated():
            async with heartbeating():
                try:
                    progress = await self._record.move(
                        key, evidence, request.hooks_called, request.asked
                    )
                except HooksNotCalled:
                    progress = await self._record.with_hooks(key)
                    return progress.model_copy(update={"evidence": evidence})
                return progress.model_copy(update={"hooks": await self._record.hook_counts()})

    @activity.defn(name="knit.relaunch_run")
    async def relaunch_run(self, request: RelaunchRun) -> Progress:
        """Makes the next generation of a Run (→ waiting) once its disrupted pod is gone."""
        key, evidence = _key(request), request.evidence
        reporter = PendingReporter(self._store, key, nothing_recorded=False)
        with translated():
            async with heartbeating(), reporter.failures(*UNDER_WAY):
                spec = await self._store.spec(key)
                while spec.status.is_under_way:
                    await reporter.disrupted(evidence.disruption, outputs_read=False)
                    # At most one container of a Run at any time: the old one first has to be gone.
                    if await self._steps.stop(key):
                        return await self._relaunched(spec, evidence, reporter)
                    spec = await self._store.spec(key)
        return Progress(status=spec.status)

    async def _relaunched(
        self, spec: RunSpec, evidence: Evidence, reporter: PendingReporter
    ) -> Progress:
        """Launches a Run again whose pod is gone; gives its status, or why it fails after all."""
        key, limit = spec.key, self._relaunches(spec)
        cause = f"disrupted: {evidence.disruption}"
        while True:
            try:
                made = await self._store.relaunch(key, cause=cause, limit=limit)
                break
            except IllegalMove:
                await reporter.disrupted(evidence.disruption, outputs_read=True)
                await asyncio.sleep(READERS_AGAIN_AFTER.total_seconds())
        log_status(key, made.status)
        if not made.status.is_under_way:
            return Progress(status=made.status, pod_ended=True)
        already = f"; it was launched again {made.times} times already" if made.times else ""
        cause = f"{evidence.cause}{already}"
        failure = {"cause": cause, "disruption": "", "pod_ended": True}
        return Progress(status=made.status, evidence=evidence.model_copy(update=failure))

    async def _launched(self, key: RunKey) -> Progress:
        """Goes on from the status that the Run has; gives how far it has come."""
        spec = await self._store.spec_to_launch(key)
        if spec.hooked and not spec.status.is_final:
            raise HooksNotCalled
        launched_now = not spec.status.is_under_way
        try:
            while spec.status in (RunStatus.WAITING, RunStatus.READY):
                status = await self._step(spec, hooks_called=False)
                spec = dataclasses.replace(spec, status=status)
        except BackendRejected as error:
            return await self._record.move(key, refused(error), hooks_called=False)
        progress = Progress(status=spec.status)
        log_status(key, progress.status)
        if progress.status.is_under_way:
            # A launch clears the reason on record; an earlier attempt may have left one.
            progress = await self._seen_through(spec, progress, launched_now)
        return progress

    async def _taken(self, request: Step, source: RunStatus) -> Progress:
        """Takes one step, unless the Run is no longer at its beginning."""
        key = _key(request)
        with translated():
            async with heartbeating():
                spec = await self._store.spec(key)
                status = spec.status
                try:
                    if status is source:
                        status = await self._step(spec, request.hooks_called, request.asked)
                except HooksNotCalled:
                    return await self._record.with_hooks(key)
                except BackendRejected as error:
                    hooks = await self._record.hook_counts()
                    return Progress(status=source, hooks=hooks, evidence=refused(error))
                log_status(key, status)
                return Progress(status=status, hooks=await self._record.hook_counts())

    async def _others_in_force(self, asked: str | None) -> bool:
        """Says whether other Before hooks are in force than those that were asked."""
        if asked is None:
            return False
        return (await self._record.hook_counts()).before_digest not in ("", asked)

    async def _step(self, spec: RunSpec, hooks_called: bool, asked: str | None = None) -> RunStatus:
        """Goes from waiting to ready, or from ready to starting; gives the status reached.

        Each attempt looks at the hooks: it may be hours since they have agreed.
        """
        if spec.hooked and (not hooks_called or await self._others_in_force(asked)):
            raise HooksNotCalled
        reporter = PendingReporter(self._store, spec.key, nothing_recorded=False)
        notes: tuple[str, ...] = ()
        async with reporter.failures(spec.status):
            if spec.status is RunStatus.READY:
                notes, options = await self._steps.create_pod(spec)
            else:
                options = await self._steps.create_volumes(spec)
        if spec.status is RunStatus.READY:
            return await self._store.advance(
                spec.key,
                RunStatus.STARTING,
                cause="; ".join(("run pod requested", *notes)),
                notes=notes,
                used=UsedResources(spec.resources, spec.service_account),
                options=options,
                hooks_called=hooks_called,
                asked=asked,
            )
        return await self._store.advance(
            spec.key,
            RunStatus.READY,
            cause="volumes created",
            options=options,
            hooks_called=hooks_called,
            asked=asked,
        )

    async def _seen_through(
        self, spec: RunSpec, progress: Progress, launched_now: bool
    ) -> Progress:
        """Watches for a moment, in which a short Run ends; gives how far the Run has come."""
        reporter = PendingReporter(self._store, spec.key, nothing_recorded=launched_now)
        changes = self._recorded(spec.key, reporter, self._settings.short_run_wait, launched=spec)
        async with reporter.failures(RunStatus.STARTING), aclosing(changes):
            async for change in changes:
                progress = change
        return progress

    async def _recorded(
        self,
        key: RunKey,
        reporter: PendingReporter,
        duration: timedelta | None,
        *,
        launched: RunSpec | None = None,
    ) -> AsyncGenerator[Progress, None]:
        """Records and yields what happens to the run pod; ends with it, or after `duration`.

        A disruption is not recorded: the Run may be launched again. Otherwise the Run is final when
        its pod is over.
        """
        async with (
            aclosing(self._seen(key, reporter, duration, launched)) as changes,
            aclosing(_bunches(changes, soon=launched is not None)) as bunches,
        ):
            async for *before, evidence in bunches:
                concludes = evidence.pod_ended and not evidence.disruption
                if not concludes:
                    for one in before:
                        yield await self._record.move(key, one, hooks_called=False)
                if evidence.disruption:
                    status = (await self._store.spec(key)).status
                    yield Progress(
                        status=status, evidence=evidence if status.is_under_way else None
                    )
                elif concludes:
                    yield await self._record.conclude(key, evidence, before[0] if before else None)
                else:
                    yield await self._record.move(key, evidence, hooks_called=False)

    async def _seen(
        self,
        key: RunKey,
        reporter: PendingReporter,
        duration: timedelta | None = None,
        launched: RunSpec | None = None,
    ) -> AsyncGenerator[Evidence, None]:
        """Yields what moves the Run on, as `RunSteps.evidence` does, for imports too.

        An import has a workflow only if there are hooks to be called for its end; if it is still
        running then, that is because nobody has ended it. What was `launched` a moment ago is not
        looked up again: the volumes and the image of a generation never change.
        """
        async with aclosing(self._steps.evidence(key, reporter, duration)) as changes:
            async for evidence in changes:
                ends = evidence.target is RunStatus.COMPLETING
                if not ends and not is_lost(evidence) and not evidence.disruption:
                    yield evidence
                    continue
                spec = launched or await self._store.spec(key)
                if spec.image is None and is_lost(evidence):
                    yield not_ended()
                elif evidence.disruption and self._relaunches(spec):
                    yield evidence
                else:
                    final = evidence.model_copy(update={"disruption": ""})
                    yield await self._steps.kept(spec, final) if ends else final

    def _relaunches(self, spec: RunSpec) -> int:
        """Gives how often a Run may be launched again: the Plan's limit, or the installation's."""
        own = spec.options.relaunches
        return self._settings.disruption_limit if own is None else own


def _bunches(
    changes: AsyncGenerator[Evidence, None], *, soon: bool
) -> AsyncGenerator[tuple[Evidence, ...], None]:
    """Takes what follows within a moment together if it is likely to; that keeps one task more."""
    return in_bunches(changes, TOGETHER) if soon else one_by_one(changes)


async def _signal_started() -> None:
    """Has the Web UI show a Run that has been running for a while as running."""
    await asyncio.sleep(SIGNAL_AFTER.total_seconds())
    await signal_workflow("started")


def _next_evidence(status: RunStatus, evidence: Evidence) -> Evidence | None:
    """Gives what moves a Run on from this status; None: it is there already.

    What succeeded was running, even if nobody saw it; what failed may never have started.
    """
    if evidence.target is RunStatus.COMPLETING and status is RunStatus.STARTING:
        return started(evidence.image_digest, evidence.timeline)
    return None if evidence.target is status else evidence


def _not_gone(pause: timedelta) -> ApplicationError:
    """Has a stop tried again after a pause, in which it needs no slot."""
    return ApplicationError(
        "the run pod is still there",
        type="PodNotGone",
        next_retry_delay=pause,
        category=ApplicationErrorCategory.BENIGN,
    )


def _key(request: RunRef) -> RunKey:
    return RunKey(RunId(request.run_id), request.generation)
