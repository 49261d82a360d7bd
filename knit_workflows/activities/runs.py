"""What `knit.Run` does in the world: volumes, the run pod, and the Run's statuses in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from typing import Final

from temporalio import activity

from knit_workflows import names
from knit_workflows.activities.deadlines import StartDeadlines
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.observations import observations
from knit_workflows.activities.pending_reasons import ENDING, PendingReporter, signal_workflow
from knit_workflows.compute.base import (
    ENDED,
    ComputeBackend,
    Mount,
    Observation,
    Phase,
    RunPod,
    StartFailure,
    Volume,
)
from knit_workflows.contracts.runs import (
    Finalized,
    Progress,
    RunActivities,
    RunRef,
    Stopped,
    StopRun,
)
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import (
    MountedData,
    RunExecutionStore,
    RunKey,
    RunSpec,
    UsedResources,
)
from knit_workflows.domain.runs import LOST, STUCK_CODE, Exit, RunStatus
from knit_workflows.settings import EngineSettings

log = logging.getLogger(__name__)

CANCELLED: Final = Exit(253, "cancelled in Temporal")
SIGNAL_AFTER: Final = timedelta(seconds=2)
"""How long a container has run before its workflow is told: a signal costs a workflow task, which
the many short Runs need not pay."""


class ComputeRunActivities(RunActivities):
    """The activities of `knit.Run`, on a store and a compute back-end."""

    def __init__(
        self, store: RunExecutionStore, backend: ComputeBackend, settings: EngineSettings
    ) -> None:
        self._store = store
        self._backend = backend
        self._settings = settings

    @activity.defn(name="knit.launch_run")
    async def launch_run(self, request: RunRef) -> Progress:
        """Creates the volumes (→ ready) and the run pod (→ starting); sees a short Run through.

        A repeated attempt goes on where the last one stopped, as the status in the store says. Once
        the Run is starting, no pod is ever created again.
        """
        with translated():
            async with heartbeating():
                spec = await self._store.spec(_key(request))
                try:
                    status = await self._launched(spec)
                except BackendRejected as error:
                    status = await self._store.advance(
                        spec.key,
                        RunStatus.ABORTING,
                        cause="refused by the compute back-end",
                        exit=Exit(STUCK_CODE, error.reason),
                    )
                _log(spec.key, status)
                progress = Progress(status=status)
                if status.is_under_way:
                    # A launch clears the reason on record; an earlier attempt may have left one.
                    launched_now = not spec.status.is_under_way
                    progress = await self._seen_through(spec.key, progress, launched_now)
                if progress.pod_ended:
                    status = await self._finalized(spec.key)
                    progress = progress.model_copy(update={"status": status})
        return progress

    @activity.defn(name="knit.watch_run")
    async def watch_run(self, request: RunRef) -> Progress:
        """Watches until the container has started (→ running), then ended (→ completing …)."""
        with translated():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(heartbeating())
                reporter = PendingReporter(self._store, _key(request), nothing_recorded=False)
                await stack.enter_async_context(reporter.failures(RunStatus.STARTING))
                changes = await stack.enter_async_context(
                    aclosing(self._progress(_key(request), reporter))
                )
                signalling: asyncio.Task[None] | None = None
                stack.callback(lambda: signalling and signalling.cancel())
                async for progress in changes:
                    if not progress.status.is_under_way:
                        return progress
                    signalling = signalling or asyncio.create_task(_signal_started())
        raise AssertionError("a watch ends only with its pod")

    @activity.defn(name="knit.stop_run")
    async def stop_run(self, request: StopRun) -> Stopped:
        """Kills the run pod and waits until it is gone; a Run that never had one is fine."""
        key = RunKey(RunId(request.run_id), request.generation)
        name = names.run_pod(key.run_id, key.generation)
        with translated():
            async with heartbeating():
                if request.abort:
                    await self._store.advance(
                        key, RunStatus.ABORTING, cause="cancelled in Temporal", exit=CANCELLED
                    )
                reporter = PendingReporter(self._store, key, nothing_recorded=False)
                async with reporter.failures(*ENDING):
                    while not await self._stopped(name):
                        log.info(
                            "run pod is still there",
                            extra={"action": "stop_repeated", "run_id": key.run_id},
                        )
                        await reporter.pod_not_gone()
                spec = await self._store.spec(key)
        return Stopped(status=spec.status)

    @activity.defn(name="knit.finalize_run")
    async def finalize_run(self, request: RunRef) -> Finalized:
        """Commits the lineage (→ done, failed), then releases the run pod."""
        with translated():
            async with heartbeating():
                status = await self._finalized(_key(request))
        return Finalized(status=status)

    async def _launched(self, spec: RunSpec) -> RunStatus:
        """Goes on from the status that the Run has; gives the one reached."""
        status = spec.status
        reporter = PendingReporter(self._store, spec.key, nothing_recorded=False)
        if status is RunStatus.WAITING:
            async with reporter.failures(status):
                await self._create_volumes(spec)
            status = await self._store.advance(spec.key, RunStatus.READY, cause="volumes created")
        if status is RunStatus.READY:
            async with reporter.failures(status):
                await self._backend.launch(run_pod(spec))
            status = await self._store.advance(
                spec.key,
                RunStatus.STARTING,
                cause="run pod created",
                used=UsedResources(spec.resources, spec.service_account),
            )
        return status

    async def _seen_through(self, key: RunKey, progress: Progress, launched_now: bool) -> Progress:
        """Watches for a moment, in which a short Run ends; gives how far the Run has come."""
        reporter = PendingReporter(self._store, key, nothing_recorded=launched_now)
        async with (
            reporter.failures(RunStatus.STARTING),
            aclosing(
                self._progress(key, reporter, duration=self._settings.short_run_wait)
            ) as changes,
        ):
            async for change in changes:
                progress = change
        return progress

    async def _create_volumes(self, spec: RunSpec) -> None:
        made = [*spec.outputs, *([spec.log] if spec.log else [])]
        await asyncio.gather(*(self._backend.create_volume(_volume(data)) for data in made))

    async def _progress(
        self, key: RunKey, reporter: PendingReporter, duration: timedelta | None = None
    ) -> AsyncGenerator[Progress, None]:
        """Records and yields what happens to the run pod; ends with it, or after `duration`."""
        name = names.run_pod(key.run_id, key.generation)
        deadlines = StartDeadlines(
            self._settings.image_pull_deadline, self._settings.start_deadline
        )
        started = False
        async with aclosing(observations(self._backend, name, deadlines, duration)) as changes:
            async for pod in changes:
                observation = pod.observation
                if pod.expired is not None:
                    exit = _stuck(name, pod.expired)
                    yield await self._give_up(key, exit, "run pod stuck")
                    return
                if observation.phase is Phase.PENDING:
                    await reporter.start_failure(observation.start_failure, pod.deadline)
                if observation.phase is Phase.ABSENT:
                    yield await self._give_up(key, LOST, "run pod lost")
                    return
                if observation.phase in ENDED:
                    yield await self._ended(key, observation)
                    return
                if observation.phase is Phase.RUNNING and not started:
                    started = True
                    yield await self._started(key, observation)

    async def _started(self, key: RunKey, observation: Observation) -> Progress:
        status = await self._store.advance(
            key,
            RunStatus.RUNNING,
            cause="container started",
            image_digest=observation.image_digest,
        )
        _log(key, status)
        return Progress(status=status)

    async def _ended(self, key: RunKey, observation: Observation) -> Progress:
        assert observation.exit is not None
        succeeded = observation.phase is Phase.SUCCEEDED
        status = await self._store.advance(
            key,
            RunStatus.COMPLETING if succeeded else RunStatus.ABORTING,
            # In the history too, which stays when the Run is retried.
            cause="; ".join(("run pod ended", *observation.notes)),
            exit=observation.exit,
            image_digest=observation.image_digest,
            notes=observation.notes,
        )
        progress = _ended_with(key, status, observation.exit, pod_ended=True)
        return progress.model_copy(update={"notes": observation.notes})

    async def _give_up(self, key: RunKey, exit: Exit, cause: str) -> Progress:
        status = await self._store.advance(key, RunStatus.ABORTING, cause=cause, exit=exit)
        return _ended_with(key, status, exit, pod_ended=False)

    async def _finalized(self, key: RunKey) -> RunStatus:
        """Ends the Run: lineage first, so that an unreachable back-end delays only the clean-up."""
        status = await self._store.finalize(key, cause="run pod ended")
        _log(key, status)
        await self._backend.release(names.run_pod(key.run_id, key.generation))
        return status

    async def _stopped(self, name: str) -> bool:
        """Stops the pod and waits for a while; gives whether it has gone."""
        await self._backend.stop(name, grace=self._settings.stop_grace)
        timeout = self._settings.stop_retry_interval + self._settings.stop_grace
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                async for observation in self._backend.watch(name):
                    if observation.phase is Phase.ABSENT:
                        return True
        except TimeoutError:
            return False
        return False


async def _signal_started() -> None:
    """Has the Web UI show a Run that has been running for a while as running."""
    await asyncio.sleep(SIGNAL_AFTER.total_seconds())
    await signal_workflow("started")


def run_pod(spec: RunSpec) -> RunPod:
    """Describes the pod that carries out a Run; pure."""
    return RunPod(
        name=names.run_pod(spec.key.run_id, spec.key.generation),
        run_id=spec.key.run_id,
        generation=spec.key.generation,
        plan_id=spec.plan_id,
        image=str(spec.image) if spec.image else "",
        inputs=tuple(Mount(data.path, _volume(data)) for data in spec.inputs),
        outputs=tuple(Mount(data.path, _volume(data)) for data in spec.outputs),
        log=_volume(spec.log) if spec.log else None,
        entrypoint=spec.entrypoint,
        args=spec.args,
        resources=spec.resources,
        on_node=spec.on_node,
        service_account=spec.service_account,
    )


def _key(request: RunRef) -> RunKey:
    return RunKey(RunId(request.run_id), request.generation)


def _volume(data: MountedData) -> Volume:
    return Volume(name=data.volume, knit_id=data.knit_id)


def _stuck(name: str, trouble: StartFailure) -> Exit:
    return Exit(STUCK_CODE, f"(pod {name}) [{trouble.reason}] {trouble.message}")


def _ended_with(key: RunKey, status: RunStatus, exit: Exit, *, pod_ended: bool) -> Progress:
    _log(key, status, exit)
    return Progress(
        status=status, pod_ended=pod_ended, exit_code=exit.code, exit_message=exit.message
    )


def _log(key: RunKey, status: RunStatus, exit: Exit | None = None) -> None:
    extra: dict[str, object] = {
        "action": "run_status",
        "run_id": key.run_id,
        "generation": key.generation,
        "status": str(status),
    }
    if exit is not None:
        extra |= {"exit_code": exit.code, "exit_message": exit.message}
    log.info("run is %s", status, extra=extra)
