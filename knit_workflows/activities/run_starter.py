"""Starts the workflows of the Projector and of Runs, with their summaries in the Web UI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.contracts import shown
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.contracts.runs import RunInput
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.ports import StartableRun
from knit_workflows.settings import EngineSettings
from knit_workflows.workflows import options
from knit_workflows.workflows.projector import ProjectorWorkflow
from knit_workflows.workflows.run import RunWorkflow

log = logging.getLogger(__name__)

STARTS_AT_ONCE: Final = 16
_TIMEOUT: Final = timedelta(seconds=10)
_TAKEN_WITHIN: Final = timedelta(seconds=10)
"""A step of the Projector that waits for longer is in a queue that no worker serves."""
_TRIED: Final = 3
"""A task that is tried more often is given to workers that do not know the Projector."""
_UNKNOWN_ACTIVITY: Final = "NotFoundError"
"""The SDK's word for an activity that a worker does not have."""


async def start_projector(client: Client, request: ProjectorInput) -> None:
    """Starts the Projector of a shard, unless it runs already; moves one that is left behind."""
    left = await projector_left_behind(client, request)
    if left is not None:
        log.warning(
            "the Projector moves to the task queue %s: nobody works for it on its old one",
            request.engine_queue,
            extra={"action": "projector_moved"},
        )
        await _terminate(left)
    await client.start_workflow(
        ProjectorWorkflow.run,
        request,
        id=names.projector_workflow(request.shard),
        task_queue=request.engine_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        task_timeout=request.heartbeat,
        priority=options.AT_HAND,
        static_summary="turns commits into Runs",
    )


async def projector_left_behind(
    client: Client, request: ProjectorInput
) -> WorkflowHandle[Any, Any] | None:
    """Gives the Projector if it is on another task queue, and nobody takes its next step there.

    While somebody works for it, it stays where it is: workers of different settings, as during a
    rolling change, would take it from each other again and again.
    """
    workflow_id = names.projector_workflow(request.shard)
    try:
        found = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    if found.status is not WorkflowExecutionStatus.RUNNING:
        return None
    if found.task_queue == request.engine_queue or not _waits(found.raw_description):
        return None
    # This execution only: another worker may be moving it too.
    return client.get_workflow_handle(workflow_id, run_id=found.run_id)


def _waits(found: DescribeWorkflowExecutionResponse) -> bool:
    """Says whether a workflow's next step is taken by no worker, or by none that knows it."""
    latest = datetime.now(UTC) - _TAKEN_WITHIN
    for step in found.pending_activities:
        if step.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED:
            failure = step.last_failure.application_failure_info.type
            return failure == _UNKNOWN_ACTIVITY or step.scheduled_time.ToDatetime(UTC) < latest
    task = found.pending_workflow_task
    if task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED:
        return task.attempt > _TRIED or task.scheduled_time.ToDatetime(UTC) < latest
    return False


async def _terminate(projector: WorkflowHandle[Any, Any]) -> None:
    try:
        await projector.terminate("starts anew on another task queue")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # another worker was faster
            raise


class RunStarter:
    """Starts the workflows of Runs, each at most once."""

    def __init__(
        self,
        client: Client,
        queues: ProjectorInput,
        settings: EngineSettings,
        *,
        attributes: bool,
        at_hand: bool = False,
        eager: bool = False,
    ) -> None:
        """`attributes`: the server knows knit's; `at_hand`: launches take moments at most.

        `eager`: this process may get a Run's first task with the answer, without a poll. Of workers
        with versions it may not: the Run would begin with the version of this process, be it the
        current one or not.
        """
        self._client = client
        self._queues = queues
        self._settings = settings
        self._attributes = attributes
        self._launch_within = _launch_within(queues, settings) if at_hand else None
        self._eager = eager

    @property
    def launches_here(self) -> bool:
        """Says whether this process is likely to launch the Runs that it starts."""
        return self._launch_within is not None

    async def start(self, runs: Sequence[StartableRun], *, restart: bool = False) -> None:
        """Starts the workflows of these Runs, some at a time.

        With `restart` those that have ended are started again.

        Raises:
            EngineUnavailable: Temporal does not accept one of them.
        """
        gate = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start_one(run: StartableRun) -> None:
            async with gate:
                await self._start(run, restart)

        try:
            await asyncio.gather(*(start_one(run) for run in runs))
        except RPCError as error:
            raise EngineUnavailable("Temporal did not take a Run's workflow") from error

    async def _start(self, run: StartableRun, restart: bool) -> None:
        key = run.key
        reuse = WorkflowIDReusePolicy
        try:
            await self._client.start_workflow(
                RunWorkflow.run,
                RunInput(
                    run_id=key.run_id,
                    generation=key.generation,
                    search_attributes=self._attributes,
                    compute_queue=self._queues.compute_queue,
                    watch_queue=self._queues.watch_queue,
                    interactive_queue=self._queues.interactive_queue,
                    hooks_queue=self._queues.hooks_queue,
                    heartbeat=self._settings.run_heartbeat,
                    launch_within=self._launch_within,
                ),
                id=names.run_workflow(key.run_id, key.generation),
                task_queue=self._queues.engine_queue,
                id_reuse_policy=reuse.ALLOW_DUPLICATE if restart else reuse.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                task_timeout=self._settings.step_timeout,
                # Servers that support fairness let Plans take turns, however many Runs they have.
                priority=Priority(fairness_key=str(run.plan_id)),
                request_eager_start=self._eager,
                static_summary=_summary(run),
                static_details=_details(run),
                search_attributes=_attributes_of(run) if self._attributes else None,
            )
        except WorkflowAlreadyStartedError:
            log.debug("run's workflow has ended already", extra={"run_id": key.run_id})


def _launch_within(queues: ProjectorInput, settings: EngineSettings) -> timedelta | None:
    """Gives how long a Run's workflow may launch it within its own task; None: not at all.

    Its worker has to serve the queue of launches too. Until the task is over, it hears of nothing;
    when it takes too long, Temporal gives it to another worker.
    """
    within = settings.step_timeout / 2
    same = queues.engine_queue == queues.compute_queue
    return within if same and settings.short_run_wait <= within / 2 else None


def _summary(run: StartableRun) -> str:
    if not run.image:
        return "an import ends"
    command = " ".join(run.command) or "its own command"
    return shown.summary(f"{run.image}: {command} ← {len(run.input_ids)} Data")


def _details(run: StartableRun) -> str:
    inputs = "\n".join(f"* `{knit_id}`" for knit_id in run.input_ids[:50])
    return shown.details(
        f"Run `{run.key.run_id}`, generation {run.key.generation}, of Plan `{run.plan_id}`\n\n"
        f"image `{run.image}`\n\ninputs\n\n{inputs}\n\n"
        f"see `knit run show {run.key.run_id}`"
    )


def _attributes_of(run: StartableRun) -> TypedSearchAttributes:
    values = {
        names.ATTRIBUTE_RUN_ID: str(run.key.run_id),
        names.ATTRIBUTE_PLAN_ID: str(run.plan_id),
        names.ATTRIBUTE_STATUS: "waiting",
        names.ATTRIBUTE_IMAGE: run.image,
    }
    return TypedSearchAttributes(
        [
            SearchAttributePair(SearchAttributeKey.for_keyword(name), shown.keyword(value))
            for name, value in values.items()
        ]
    )
