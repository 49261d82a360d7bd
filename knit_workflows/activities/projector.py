"""The activity of `knit.Projector`: project, admit, start and stop Runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError, WorkflowUpdateStage
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.run_starter import RunStarter
from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.compute.base import ComputeBackend, RunLimits
from knit_workflows.contracts.projector import Drained, ProjectorActivities, ProjectorInput
from knit_workflows.contracts.runs import StopUpdate
from knit_workflows.domain.errors import BackendUnavailable, StorageFull
from knit_workflows.domain.ports import (
    ADMITTED_AT_ONCE,
    AdmissionLimits,
    AdmissionStore,
    Projection,
    ProjectionStore,
    RunKey,
    StartableRun,
    StopRequest,
)
from knit_workflows.settings import EngineSettings
from knit_workflows.workflows.run import RunWorkflow

log = logging.getLogger(__name__)

EVENTS_PER_PASS: Final = 16
PROJECT_FOR: Final = timedelta(milliseconds=250)
"""How many events are projected, and for how long, before Runs are started and stops delivered:
neither the first Run of a large event nor a stop should wait for its last page."""
STOP_TIMEOUT: Final = timedelta(seconds=5)
_SETTINGS: Final = (
    "compute_queue",
    "watch_queue",
    "interactive_queue",
    "hooks_queue",
    "heartbeat",
)
"""What of the Projector's input every drain takes from its worker."""
_IDLE_AFTER: Final = timedelta(milliseconds=50)
"""How long nothing has happened before started workflows are recorded without an admission."""
_AGAIN_AFTER: Final = timedelta(seconds=1)
"""How long a stop waits that was not taken, as by a workflow that no worker executes just then."""


@dataclass(slots=True)
class _Tally:
    events: int = 0
    created: int = 0
    started: int = 0
    unrecorded: list[RunKey] = field(default_factory=list)
    """Runs whose workflows have been started, of which the store does not know yet."""

    def projected(self, step: Projection) -> None:
        """Counts an event that has been projected."""
        self.events += 1
        self.created += step.created
        if step.created:
            log.info(
                "%d runs created",
                step.created,
                extra={
                    "action": "runs_created",
                    "event_kind": step.event_kind,
                    "runs": step.created,
                },
            )


class StoreProjectorActivities(ProjectorActivities):
    """The activity of `knit.Projector`, on the store and the worker's own Temporal client.

    The back-end is only asked whether it has disk space.
    """

    def __init__(
        self,
        projection: ProjectionStore,
        admission: AdmissionStore,
        backend: ComputeBackend,
        settings: EngineSettings,
        *,
        run_limits: RunLimits,
        current: ProjectorInput,
        eager: bool = True,
    ) -> None:
        """`current` has the settings of this worker; those of a drain's workflow may be older.

        `eager`: see `RunStarter`.
        """
        self._projection = projection
        self._admission = admission
        self._backend = backend
        self._settings = settings
        self._run_limits = run_limits
        self._current = current
        self._eager = eager

    @activity.defn(name="knit.drain_outbox")
    async def drain_outbox(self, request: ProjectorInput) -> Drained:
        """Does what there is to do whenever it is woken; returns after `drain_for`."""
        request = self._renewed(request)
        tally = _Tally()
        ends = time.monotonic() + request.drain_for.total_seconds()
        client = activity.client()
        with translated():
            async with heartbeating():
                attributes = await search_attributes_known(client)
                starter = RunStarter(
                    client,
                    request,
                    self._settings,
                    attributes=attributes,
                    at_hand=self._backend.is_at_hand(),
                    eager=self._eager,
                )
                work = self._projection.wake_ups(fallback=self._settings.poll_interval)
                async with aclosing(work), self._delivering(client) as stops:
                    while await _is_woken(work, lambda: self._record_started(tally)):
                        await self._work_until_idle(starter, stops, tally, ends)
                        if time.monotonic() >= ends:
                            break
                await self._record_started(tally)
        return Drained(
            events=tally.events,
            runs_created=tally.created,
            runs_started=tally.started,
            next_input=request,
        )

    def _renewed(self, request: ProjectorInput) -> ProjectorInput:
        """Gives the input with this worker's settings.

        But for the queue of the Projector itself, to which only `start_projector` moves it.
        """
        current = self._current
        return request.model_copy(update={name: getattr(current, name) for name in _SETTINGS})

    async def _work_until_idle(
        self, starter: RunStarter, stops: asyncio.Event, tally: _Tally, ends: float
    ) -> None:
        """Repeats until a pass leaves nothing; later notifications wake the Projector again.

        There may always be more, so it stops when the drain `ends` and when the worker stops: the
        next drain goes on. Sets `stops` if there are some to be delivered.
        """
        while True:
            startable, is_drained = await self._pass(tally)
            if startable:
                keys = [run.key for run in startable]
                async with self._preparing(keys if starter.launches_here else []):
                    await starter.start(startable)
                tally.unrecorded += keys
                tally.started += len(startable)
            if self._admission.has_stops():
                stops.set()
            if is_drained and len(startable) < ADMITTED_AT_ONCE:
                return
            if time.monotonic() >= ends or activity.is_worker_shutdown():
                return

    @asynccontextmanager
    async def _preparing(self, keys: Sequence[RunKey]) -> AsyncIterator[None]:
        """Has what the launches of these Runs need read meanwhile; only to save time."""
        preparing = asyncio.create_task(self._admission.prepare(keys)) if keys else None
        try:
            yield
        finally:
            if preparing is not None:
                await asyncio.wait({preparing})
                if not preparing.cancelled() and (error := preparing.exception()) is not None:
                    log.info("nothing was read ahead: %s", error)

    async def _limits(self) -> AdmissionLimits:
        """Gives how many Runs may be under way at this moment."""
        limits = self._run_limits
        total, short = limits.usual, limits.short
        if limits.throttled is not None and self._admission.throttled():
            total, short = limits.throttled, 0
        return AdmissionLimits(
            total=total,
            short=short,
            per_plan=self._settings.max_active_runs_per_plan,
            held=await self._held(),
        )

    async def _held(self) -> str:
        """Says why no Run may be admitted now; empty: nothing prevents it."""
        if self._settings.hold:
            return self._settings.hold
        try:
            await self._backend.require_room()
        except (StorageFull, BackendUnavailable) as error:
            return error.reason
        return ""

    async def _pass(self, tally: _Tally) -> tuple[Sequence[StartableRun], bool]:
        """Projects some events and admits Runs; gives those, and whether no event is left.

        Which workflows were started before is recorded together with that.
        """
        ends = time.monotonic() + PROJECT_FOR.total_seconds()
        for count in range(EVENTS_PER_PASS):
            if count and time.monotonic() >= ends:
                break
            done = await self._admission.project_and_admit(
                page_size=self._settings.page_size,
                limits=await self._limits(),
                started=tally.unrecorded,
            )
            if done.projection is not None:
                tally.projected(done.projection)
            if done.startable is not None:
                tally.unrecorded.clear()
                return done.startable, True
        await self._record_started(tally)
        return await self._admission.admit(await self._limits()), False

    async def _record_started(self, tally: _Tally) -> None:
        """Records which workflows have been started, as far as that has not been done.

        What is lost of it, since this process dies, the next one starts again, in vain.
        """
        if tally.unrecorded:
            await self._admission.started(tally.unrecorded)
            tally.unrecorded.clear()

    @asynccontextmanager
    async def _delivering(self, client: Client) -> AsyncIterator[asyncio.Event]:
        """Delivers stops while inside, whenever the event is set.

        Beside everything else: a workflow that launches its Run hears of a stop only afterwards.
        """
        wanted = asyncio.Event()
        delivering = asyncio.create_task(self._deliver_whenever(wanted, client))
        try:
            yield wanted
        finally:
            delivering.cancel()
            await asyncio.wait({delivering})

    async def _deliver_whenever(self, wanted: asyncio.Event, client: Client) -> None:
        """Delivers stops until it is cancelled; what was not taken is offered again soon."""
        again: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await wanted.wait()
            wanted.clear()
            again = _AGAIN_AFTER.total_seconds()
            try:
                if await self._deliver_stops(client):
                    again = None
            except Exception:
                if _is_cancelled():  # of which libraries make errors of their own
                    return
                # Otherwise nobody hears of it before the drain is over.
                log.exception("stops are delivered later", extra={"action": "stops_late"})

    async def _deliver_stops(self, client: Client) -> bool:
        """Delivers stops as long as some are taken; says whether none is left."""
        while True:
            await self._admission.finish_unstarted()
            requests = await self._admission.stop_requests()
            delivered = await asyncio.gather(*(_stop(client, request) for request in requests))
            for request, was_delivered in zip(requests, delivered, strict=True):
                if was_delivered:
                    await self._admission.close_event(request.event_id)
            if not any(delivered):
                return not requests


async def _is_woken(
    work: AsyncGenerator[None, None], when_idle: Callable[[], Awaitable[None]]
) -> bool:
    """Waits until there may be something to do; False: the worker stops, and another goes on.

    After a moment without anything it does what there is to do then.
    """
    woken = asyncio.ensure_future(anext(work))
    stops = asyncio.ensure_future(activity.wait_for_worker_shutdown())
    first = asyncio.FIRST_COMPLETED
    try:
        moment = _IDLE_AFTER.total_seconds()
        done, _ = await asyncio.wait({woken, stops}, timeout=moment, return_when=first)
        if not done:
            await when_idle()
            await asyncio.wait({woken, stops}, return_when=first)
        if stops.done():
            return False
        woken.result()
    except StopAsyncIteration:
        return False
    else:
        return True
    finally:
        stops.cancel()
        woken.cancel()
        await asyncio.wait({woken, stops})  # or the generator could not be closed


def _is_cancelled() -> bool:
    """Says whether the current task has been cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _stop(client: Client, request: StopRequest) -> bool:
    """Delivers a stop; says whether its event can be closed."""
    handle = client.get_workflow_handle_for(
        RunWorkflow.run, names.run_workflow(request.key.run_id, request.key.generation)
    )
    try:
        await handle.start_update(
            RunWorkflow.stop,
            StopUpdate(fail=request.fail),
            id=f"stop-{request.event_id}",
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            rpc_timeout=STOP_TIMEOUT,
        )
    except RPCError as error:
        # A workflow that has ended needs no stop; other errors are retried.
        return error.status is RPCStatusCode.NOT_FOUND
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        if _is_cancelled():
            raise asyncio.CancelledError from error
        return False
    return True
