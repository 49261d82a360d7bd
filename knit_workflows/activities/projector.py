"""What `knit.Projector` does in the world: project, admit, start and stop Runs."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client, WorkflowUpdateStage
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.activities.starting import RunStarter
from knit_workflows.compute.base import ComputeBackend, RunsAtOnce
from knit_workflows.contracts.projector import Drained, ProjectorActivities, ProjectorInput
from knit_workflows.contracts.runs import StopRequest
from knit_workflows.domain.errors import StorageFull
from knit_workflows.domain.ports import (
    ADMITTED_AT_ONCE,
    AdmissionLimits,
    ProjectorStore,
    StopOrder,
)
from knit_workflows.settings import EngineSettings
from knit_workflows.workflows.run import RunWorkflow

log = logging.getLogger(__name__)

EVENTS_PER_ROUND: Final = 16
PROJECT_FOR: Final = timedelta(milliseconds=250)
"""Events projected, and for how long, before Runs are started and stops delivered: neither the
first Run of a flood nor a stop shall wait for the last page of it."""
STOP_TIMEOUT: Final = timedelta(seconds=5)


@dataclass(slots=True)
class _Tally:
    events: int = 0
    created: int = 0
    started: int = 0


class StoreProjectorActivities(ProjectorActivities):
    """The activity of `knit.Projector`, on the store and the worker's own Temporal client.

    The back-end is only asked whether it has room.
    """

    def __init__(
        self,
        store: ProjectorStore,
        backend: ComputeBackend,
        settings: EngineSettings,
        *,
        places: RunsAtOnce,
        interactive_queue: str,
    ) -> None:
        self._store = store
        self._backend = backend
        self._settings = settings
        self._places = places
        self._interactive_queue = interactive_queue

    @activity.defn(name="knit.drain_outbox")
    async def drain_outbox(self, request: ProjectorInput) -> Drained:
        """Do all there is to do, whenever there is; return after `drain_for`."""
        if not request.interactive_queue:  # its workflow is older than that queue, and goes on
            request = request.model_copy(update={"interactive_queue": self._interactive_queue})
        tally = _Tally()
        ends = time.monotonic() + request.drain_for.total_seconds()
        client = activity.client()
        with translated():
            async with heartbeating():
                attributes = await search_attributes_known(client)
                starter = RunStarter(client, request, self._settings, attributes=attributes)
                work = self._store.work(fallback=self._settings.fallback)
                async with aclosing(work):
                    async for _ in work:
                        await self._round_until_idle(client, starter, tally)
                        if time.monotonic() >= ends:
                            break
        return Drained(events=tally.events, runs_created=tally.created, runs_started=tally.started)

    async def _round_until_idle(self, client: Client, starter: RunStarter, tally: _Tally) -> None:
        """Go on while a round has left something; what comes in meanwhile rings the bell."""
        while True:
            is_drained = await self._project(tally)
            startable = await self._store.admit(await self._limits())
            if startable:
                await starter.start(startable)
                await self._store.started([run.key for run in startable])
                tally.started += len(startable)
            delivered = await self._deliver_stops(client)
            if is_drained and len(startable) < ADMITTED_AT_ONCE and not delivered:
                return

    async def _limits(self) -> AdmissionLimits:
        """Say how many Runs may be under way at this moment."""
        attended = self._store.attended()
        return AdmissionLimits(
            total=self._places.attended if attended else self._places.usual,
            short=0 if attended else self._places.short,
            per_plan=self._settings.max_active_runs_per_plan,
            held=await self._held(),
        )

    async def _held(self) -> str:
        """Say why no Run may begin now; empty: none."""
        try:
            await self._backend.require_room()
        except StorageFull as error:
            return error.reason
        return ""

    async def _project(self, tally: _Tally) -> bool:
        """Project some events; give whether none is left."""
        ends = time.monotonic() + PROJECT_FOR.total_seconds()
        for count in range(EVENTS_PER_ROUND):
            if count and time.monotonic() >= ends:
                return False
            step = await self._store.project(page_size=self._settings.page_size)
            if step is None:
                return True
            tally.events += 1
            tally.created += step.created
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
        return False

    async def _deliver_stops(self, client: Client) -> int:
        await self._store.finish_unstarted()
        orders = await self._store.stop_orders()
        delivered = await asyncio.gather(*(_stop(client, order) for order in orders))
        for order, was_delivered in zip(orders, delivered, strict=True):
            if was_delivered:
                await self._store.close_event(order.event_id)
        return sum(delivered)


async def _stop(client: Client, order: StopOrder) -> bool:
    """Deliver a stop; give whether its event can be closed."""
    handle = client.get_workflow_handle_for(
        RunWorkflow.run, names.run_workflow(order.key.run_id, order.key.generation)
    )
    try:
        await handle.start_update(
            RunWorkflow.stop,
            StopRequest(fail=order.fail),
            id=f"stop-{order.event_id}",
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            rpc_timeout=STOP_TIMEOUT,
        )
    except RPCError as error:
        # A workflow that has ended needs no stop; anything else is tried again.
        return error.status is RPCStatusCode.NOT_FOUND
    return True
