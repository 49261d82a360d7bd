"""What `knit.Projector` does in the world: project, admit, start and stop Runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client, WorkflowUpdateStage
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.contracts.projector import Drained, ProjectorActivities, ProjectorInput
from knit_workflows.contracts.runs import RunInput, StopRequest
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.ports import (
    AdmissionLimits,
    ProjectorStore,
    StartableRun,
    StopOrder,
)
from knit_workflows.settings import EngineSettings
from knit_workflows.workflows.run import RunWorkflow

log = logging.getLogger(__name__)

DRAIN_FOR: Final = timedelta(minutes=10)
"""How long one drain lasts; it ends at the next pause after that."""
EVENTS_PER_ROUND: Final = 16
"""Events projected before the Runs they made are started: keeps the first Run from waiting."""
STARTS_AT_ONCE: Final = 16
STOP_TIMEOUT: Final = timedelta(seconds=5)


@dataclass(slots=True)
class _Tally:
    events: int = 0
    created: int = 0
    started: int = 0


class StoreProjectorActivities(ProjectorActivities):
    """The activity of `knit.Projector`, on the store and the worker's own Temporal client."""

    def __init__(self, store: ProjectorStore, settings: EngineSettings) -> None:
        self._store = store
        self._settings = settings
        self._limits = AdmissionLimits(
            total=settings.max_active_runs, per_plan=settings.max_active_runs_per_plan
        )

    @activity.defn(name="knit.drain_outbox")
    async def drain_outbox(self, request: ProjectorInput) -> Drained:
        """Do all there is to do, whenever there is; return after `DRAIN_FOR`."""
        tally = _Tally()
        ends = time.monotonic() + DRAIN_FOR.total_seconds()
        client = activity.client()
        with translated():
            async with heartbeating():
                attributes = await search_attributes_known(client)
                starter = _Starter(client, request, attributes, self._settings)
                work = self._store.work(fallback=self._settings.fallback)
                async with aclosing(work):
                    async for _ in work:
                        await self._round_until_idle(starter, tally)
                        if time.monotonic() >= ends:
                            break
        return Drained(events=tally.events, runs_created=tally.created, runs_started=tally.started)

    async def _round_until_idle(self, starter: _Starter, tally: _Tally) -> None:
        while True:
            events = await self._project(tally)
            startable = await self._store.admit(self._limits)
            if startable:
                await starter.start(startable)
                await self._store.started([run.key for run in startable])
                tally.started += len(startable)
            delivered = await self._deliver_stops(starter)
            if not (events or startable or delivered):
                return

    async def _project(self, tally: _Tally) -> int:
        for count in range(EVENTS_PER_ROUND):
            step = await self._store.project(page_size=self._settings.page_size)
            if step is None:
                return count
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
        return EVENTS_PER_ROUND

    async def _deliver_stops(self, starter: _Starter) -> int:
        await self._store.finish_unstarted()
        orders = await self._store.stop_orders()
        delivered = await asyncio.gather(*(starter.stop(order) for order in orders))
        for order, was_delivered in zip(orders, delivered, strict=True):
            if was_delivered:
                await self._store.close_event(order.event_id)
        return sum(delivered)


class _Starter:
    """Starts and stops Run workflows; starting twice finds the first one."""

    def __init__(
        self, client: Client, request: ProjectorInput, attributes: bool, settings: EngineSettings
    ) -> None:
        self._client = client
        self._request = request
        self._attributes = attributes
        self._settings = settings

    async def start(self, runs: Sequence[StartableRun]) -> None:
        """Start the workflows of these Runs, some at a time."""
        gate = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start_one(run: StartableRun) -> None:
            async with gate:
                await self._start(run)

        try:
            await asyncio.gather(*(start_one(run) for run in runs))
        except RPCError as error:
            raise EngineUnavailable("Temporal did not take a Run's workflow") from error

    async def _start(self, run: StartableRun) -> None:
        key = run.key
        try:
            await self._client.start_workflow(
                RunWorkflow.run,
                RunInput(
                    run_id=key.run_id,
                    generation=key.generation,
                    plan_id=run.plan_id,
                    image=run.image,
                    input_ids=run.input_ids,
                    search_attributes=self._attributes,
                    compute_queue=self._request.compute_queue,
                    watch_queue=self._request.watch_queue,
                    heartbeat=self._settings.heartbeat,
                ),
                id=names.run_workflow(key.run_id, key.generation),
                task_queue=self._request.engine_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                task_timeout=self._settings.step_timeout,
                # Where this very process carries out Runs, the first step needs no poll.
                request_eager_start=True,
                static_summary=_summary(run),
                static_details=_story(run),
                search_attributes=_attributes(run) if self._attributes else None,
            )
        except WorkflowAlreadyStartedError:
            log.debug("run's workflow has ended already", extra={"run_id": key.run_id})

    async def stop(self, order: StopOrder) -> bool:
        """Deliver a stop; give whether its event can be closed."""
        handle = self._client.get_workflow_handle_for(
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


def _summary(run: StartableRun) -> str:
    command = " ".join(run.command) or "its own command"
    return f"{run.image}: {command} ← {len(run.input_ids)} Data"[:200]


def _story(run: StartableRun) -> str:
    inputs = "\n".join(f"* `{knit_id}`" for knit_id in run.input_ids[:50])
    return (
        f"Run `{run.key.run_id}`, generation {run.key.generation}, of Plan `{run.plan_id}`\n\n"
        f"image `{run.image}`\n\ninputs\n\n{inputs}\n\n"
        f"see `knit run show {run.key.run_id}`"
    )


def _attributes(run: StartableRun) -> TypedSearchAttributes:
    values = {
        names.ATTRIBUTE_RUN_ID: str(run.key.run_id),
        names.ATTRIBUTE_PLAN_ID: str(run.plan_id),
        names.ATTRIBUTE_STATUS: "waiting",
        names.ATTRIBUTE_IMAGE: run.image,
    }
    return TypedSearchAttributes(
        [
            SearchAttributePair(SearchAttributeKey.for_keyword(name), value)
            for name, value in values.items()
        ]
    )
