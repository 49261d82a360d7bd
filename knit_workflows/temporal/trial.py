"""Tries what Temporal's dynamic configuration does, since no call of its API shows that.

A workflow of the trial's own is begun on a task queue that nobody else knows, and this module plays
its worker, call by call. It is terminated at the end; where the trial is killed, it times out.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any, Final
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import ActivityType, Priority, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    ExecuteMultiOperationRequest,
    PollActivityTaskQueueRequest,
    PollWorkflowTaskQueueRequest,
    RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

_TASKS: Final = 2
"""Tasks in a round: an activity and a workflow task."""
_LIMIT: Final = 20
"""Tasks a second, and at once: the default of `history.transferProcessorMaxPollRPS`."""
_FIRST: Final = 5
"""So many rounds pass at once, even below that limit."""
_LATER: Final = 10
"""So many at the end tell the pace."""
_MARGIN: Final = 0.9
"""What is faster than the limit allows by this much is not held back by it."""
_MOST: Final = 60
"""Rounds that are timed at most, where they are as slow as with the limit,"""
_LONGEST: Final = 10.0
"""or seconds, if there are as many as are needed by then."""
_IDENTITY: Final = "knit admin doctor"
_LIFE: Final = Duration(seconds=60)
_POLL: Final = timedelta(seconds=20)
_HIGH: Final = 1
"""The highest priority; without one a task has 3."""


async def try_settings(client: Client) -> dict[str, Any]:
    """Gives what the dynamic configuration is seen to do.

    `updateWithStart`, `eager`, `priorities`: whether it works. `unlimited`: whether tasks were
    faster than the default limit allows. `firstRound` and `laterRound`: the median seconds of a
    round, which is an activity and a workflow task, at the start of many rounds in a row and at
    their end.

    Raises:
        RPCError: Temporal refuses a step of the trial, or does not answer in time.
    """
    found: dict[str, Any] = {"updateWithStart": await _knows_update_with_start(client)}
    trial = await _Trial.begin(client)
    try:
        found["eager"] = await trial.gets_activities_eagerly()
        rounds = await trial.times_rounds()
        found["firstRound"] = median(rounds[:_FIRST])
        found["laterRound"] = median(rounds[-_LATER:])
        found["unlimited"] = _faster_than_limit(rounds)
        found["priorities"] = await trial.orders_by_priority()
    finally:
        await trial.end()
    return found


async def _knows_update_with_start(client: Client) -> bool:
    """Whether a start and an update may go together; a request without either is refused anyway."""
    try:
        await client.workflow_service.execute_multi_operation(
            ExecuteMultiOperationRequest(namespace=client.namespace), timeout=_POLL
        )
    except RPCError as refused:
        if refused.status is RPCStatusCode.INVALID_ARGUMENT:
            return True
        if refused.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED):
            return False
        raise
    return True


@dataclass
class _Trial:
    """A workflow whose worker is this object. `task`: the one it has taken and not ended."""

    client: Client
    queue: str
    task: Any = None

    @classmethod
    async def begin(cls, client: Client) -> _Trial:
        """Starts the workflow, and takes its first task."""
        trial = cls(client, f"knit-doctor-{uuid4().hex}")
        await client.workflow_service.start_workflow_execution(
            StartWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_id=trial.queue,
                workflow_type=WorkflowType(name="knit.Trial"),
                task_queue=TaskQueue(name=trial.queue),
                workflow_execution_timeout=_LIFE,
                request_id=uuid4().hex,
                identity=_IDENTITY,
            ),
            timeout=_POLL,
        )
        trial.task = await trial._next_task()
        return trial

    async def gets_activities_eagerly(self) -> bool:
        """Whether an activity comes with the answer that schedules it."""
        answer = await self._schedule(_activity(self.queue, "eager", eager=True))
        eager = len(answer.activity_tasks) > 0
        activity = answer.activity_tasks[0] if eager else await self._next_activity()
        await self._complete(activity)
        self.task = await self._next_task()
        return eager

    async def times_rounds(self) -> list[float]:
        """Gives the seconds of each round, in order, until they are seen to have no limit."""
        # Whatever came before, a server with the limit may let as many through at once again.
        await asyncio.sleep(1)
        took: list[float] = []
        while len(took) < _MOST:
            if len(took) >= _FIRST + _LATER and (_faster_than_limit(took) or sum(took) > _LONGEST):
                break
            took.append(await self._times_round(f"round-{len(took)}"))
        return took

    async def _times_round(self, name: str) -> float:
        began = time.perf_counter()
        await self._schedule(_activity(self.queue, name))
        await self._complete(await self._next_activity())
        self.task = await self._next_task()
        return time.perf_counter() - began

    async def orders_by_priority(self) -> bool:
        """Whether the queue knows waiting tasks by their priority; nobody takes these."""
        waiting = f"{self.queue}-waiting"
        await self._schedule(_activity(waiting, "waiting", priority=_HIGH))
        deadline = time.monotonic() + _POLL.total_seconds()
        while True:
            described = await self.client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self.client.namespace,
                    task_queue=TaskQueue(name=waiting),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
                    report_stats=True,
                ),
                timeout=_POLL,
            )
            known = described.stats_by_priority_key
            if _HIGH in known and known[_HIGH].approximate_backlog_count > 0:
                return True
            # It is added a moment after it was scheduled; by then it waits under some priority.
            if described.stats.approximate_backlog_count > 0 or time.monotonic() > deadline:
                return False

    async def end(self) -> None:
        """Terminates the workflow."""
        await self.client.workflow_service.terminate_workflow_execution(
            TerminateWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=self.queue),
                reason="the trial is over",
                identity=_IDENTITY,
            ),
            timeout=_POLL,
        )

    async def _schedule(self, command: Command) -> RespondWorkflowTaskCompletedResponse:
        return await self.client.workflow_service.respond_workflow_task_completed(
            RespondWorkflowTaskCompletedRequest(
                namespace=self.client.namespace,
                task_token=self.task.task_token,
                commands=[command],
                identity=_IDENTITY,
            ),
            timeout=_POLL,
        )

    async def _next_task(self) -> Any:
        return await self.client.workflow_service.poll_workflow_task_queue(
            PollWorkflowTaskQueueRequest(
                namespace=self.client.namespace,
                task_queue=TaskQueue(name=self.queue),
                identity=_IDENTITY,
            ),
            timeout=_POLL,
        )

    async def _next_activity(self) -> Any:
        return await self.client.workflow_service.poll_activity_task_queue(
            PollActivityTaskQueueRequest(
                namespace=self.client.namespace,
                task_queue=TaskQueue(name=self.queue),
                identity=_IDENTITY,
            ),
            timeout=_POLL,
        )

    async def _complete(self, activity: Any) -> None:
        await self.client.workflow_service.respond_activity_task_completed(
            RespondActivityTaskCompletedRequest(
                namespace=self.client.namespace,
                task_token=activity.task_token,
                identity=_IDENTITY,
            ),
            timeout=_POLL,
        )


def _faster_than_limit(rounds: list[float]) -> bool:
    """Whether rounds in a row took less than is possible with the limit.

    It lets some tasks through at once and the others at its pace. A busy machine or a slow
    database only adds to that, so the sum tells what no single round could.
    """
    return sum(rounds) < _MARGIN * (len(rounds) * _TASKS - _LIMIT) / _LIMIT


def _activity(queue: str, name: str, *, eager: bool = False, priority: int = 0) -> Command:
    return Command(
        command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=ScheduleActivityTaskCommandAttributes(
            activity_id=name,
            activity_type=ActivityType(name="knit.trial"),
            task_queue=TaskQueue(name=queue),
            schedule_to_close_timeout=_LIFE,
            start_to_close_timeout=_LIFE,
            request_eager_execution=eager,
            priority=Priority(priority_key=priority),
        ),
    )
