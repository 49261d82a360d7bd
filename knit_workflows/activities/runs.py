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
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.holdups import STOPPING, Holdups, tell_workflow
from knit_workflows.activities.observations import observations
from knit_workflows.activities.patience import Patience
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
    RunOrder,
    UsedResources,
)
from knit_workflows.domain.runs import LOST, STUCK_CODE, Exit, RunStatus
from knit_workflows.settings import EngineSettings

log = logging.getLogger(__name__)

CANCELLED: Final = Exit(253, "cancelled in Temporal")
TELL_AFTER: Final = timedelta(seconds=2)
"""How long a container has run before its workflow is told."""
LINGER: Final = timedelta(seconds=1)
"""How long a launch stays to see the end: activities are what a Run costs, and so a short one costs
one instead of three."""
ASK_AGAIN: Final = timedelta(seconds=10)
"""How often a stop is repeated while the run pod is still there."""


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
        """Creates the volumes (→ ready) and the run pod (→ starting); see a short one through.

        Where an earlier attempt stopped, this one goes on: the status in the store says how far
        it came. Once the Run is starting, no pod is ever created again.
        """
        with translated():
            async with heartbeating():
                order = await self._store.spec(_key(request))
                try:
                    status = await self._launched(order)
                except BackendRejected as error:
                    status = await self._store.advance(
                        order.key,
                        RunStatus.ABORTING,
                        cause="refused by the compute back-end",
                        exit=Exit(STUCK_CODE, error.reason),
                    )
                _log(order.key, status)
                progress = Progress(status=status)
                if status.is_under_way:
                    # A launch clears what was said before; one found done may have left a word.
                    launched_now = not order.status.is_under_way
                    progress = await self._lingered(order.key, progress, nothing_said=launched_now)
                if progress.pod_ended:
                    status = await self._finalized(order.key)
                    progress = progress.model_copy(update={"status": status})
        return progress

    @activity.defn(name="knit.watch_run")
    async def watch_run(self, request: RunRef) -> Progress:
        """Watches until the container has started (→ running), then ended (→ completing …)."""
        with translated():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(heartbeating())
                holdups = Holdups(self._store, _key(request), nothing_said=False)
                await stack.enter_async_context(holdups.failures(RunStatus.STARTING))
                changes = await stack.enter_async_context(
                    aclosing(self._progress(_key(request), holdups))
                )
                telling: asyncio.Task[None] | None = None
                stack.callback(lambda: telling and telling.cancel())
                async for progress in changes:
                    if not progress.status.is_under_way:
                        return progress
                    telling = telling or asyncio.create_task(_tell_workflow())
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
                holdups = Holdups(self._store, key, nothing_said=False)
                async with holdups.failures(*STOPPING):
                    while not await self._stopped(name):
                        log.info(
                            "run pod is still there",
                            extra={"action": "stop_repeated", "run_id": key.run_id},
                        )
                        await holdups.not_gone()
                order = await self._store.spec(key)
        return Stopped(status=order.status)

    @activity.defn(name="knit.finalize_run")
    async def finalize_run(self, request: RunRef) -> Finalized:
        """Commits the lineage (→ done, failed), then release the run pod."""
        with translated():
            async with heartbeating():
                status = await self._finalized(_key(request))
        return Finalized(status=status)

    async def _launched(self, order: RunOrder) -> RunStatus:
        """Goes on from the status an order has; gives the one reached."""
        status = order.status
        holdups = Holdups(self._store, order.key, nothing_said=False)
        if status is RunStatus.WAITING:
            async with holdups.failures(status):
                await self._create_volumes(order)
            status = await self._store.advance(order.key, RunStatus.READY, cause="volumes created")
        if status is RunStatus.READY:
            async with holdups.failures(status):
                await self._backend.launch(run_pod(order))
            status = await self._store.advance(
                order.key,
                RunStatus.STARTING,
                cause="run pod created",
                used=UsedResources(order.resources, order.service_account),
            )
        return status

    async def _lingered(self, key: RunKey, progress: Progress, *, nothing_said: bool) -> Progress:
        """Sees a short Run through; gives how far one is that takes longer."""
        holdups = Holdups(self._store, key, nothing_said=nothing_said)
        async with (
            holdups.failures(RunStatus.STARTING),
            aclosing(self._progress(key, holdups, for_=LINGER)) as changes,
        ):
            async for change in changes:
                progress = change
        return progress

    async def _create_volumes(self, order: RunOrder) -> None:
        made = [*order.outputs, *([order.log] if order.log else [])]
        await asyncio.gather(*(self._backend.create_volume(_volume(data)) for data in made))

    async def _progress(
        self, key: RunKey, holdups: Holdups, for_: timedelta | None = None
    ) -> AsyncGenerator[Progress, None]:
        """Records what becomes of the run pod, yields each change; ends with the pod or in time."""
        name = names.run_pod(key.run_id, key.generation)
        patience = Patience(self._settings.image_pull_deadline, self._settings.start_deadline)
        started = False
        async with aclosing(observations(self._backend, name, patience, for_)) as changes:
            async for seen in changes:
                observation = seen.observation
                if seen.lost_with is not None:
                    exit = _stuck(name, seen.lost_with)
                    yield await self._give_up(key, exit, "run pod stuck")
                    return
                if observation.phase is Phase.PENDING:
                    await holdups.trouble(observation.start_failure, seen.given_up_at)
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
        """Ends the Run. Lineage first: a back-end that is away delays only the clean-up."""
        status = await self._store.finalize(key, cause="run pod ended")
        _log(key, status)
        await self._backend.release(names.run_pod(key.run_id, key.generation))
        return status

    async def _stopped(self, name: str) -> bool:
        """Asks for the stop and waits a while; gives whether the pod is gone."""
        await self._backend.stop(name, grace=self._settings.stop_grace)
        patience = ASK_AGAIN + self._settings.stop_grace
        try:
            async with asyncio.timeout(patience.total_seconds()):
                async for observation in self._backend.watch(name):
                    if observation.phase is Phase.ABSENT:
                        return True
        except TimeoutError:
            return False
        return False


async def _tell_workflow() -> None:
    """Lets the Web UI show a Run that has been running for a while as running.

    A signal costs a workflow task, which the many short Runs shall not pay.
    """
    await asyncio.sleep(TELL_AFTER.total_seconds())
    await tell_workflow("started")


def run_pod(order: RunOrder) -> RunPod:
    """Says what pod carries out a Run; pure."""
    return RunPod(
        name=names.run_pod(order.key.run_id, order.key.generation),
        run_id=order.key.run_id,
        generation=order.key.generation,
        plan_id=order.plan_id,
        image=str(order.image) if order.image else "",
        inputs=tuple(Mount(data.path, _volume(data)) for data in order.inputs),
        outputs=tuple(Mount(data.path, _volume(data)) for data in order.outputs),
        log=_volume(order.log) if order.log else None,
        entrypoint=order.entrypoint,
        args=order.args,
        resources=order.resources,
        on_node=order.on_node,
        service_account=order.service_account,
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
