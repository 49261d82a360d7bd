"""The state of a task queue: how many workers poll it, and its backlog."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

RPC_TIMEOUT: Final = timedelta(seconds=5)
RECENTLY: Final = timedelta(seconds=90)
"""A poll lasts a minute: a worker without a newer one is gone, but still listed for minutes."""
_BOTH: Final = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)


@dataclass(frozen=True, slots=True)
class QueueState:
    """A task queue at one moment; `waiting` is Temporal's estimate of its backlog."""

    workers: int
    waiting: int


async def queue_state(client: Client, queue: str) -> QueueState:
    """Describes a queue; workers are counted if they poll for both task types; raises RPCError."""
    workers, waiting = [], 0
    since = datetime.now(UTC) - RECENTLY
    for kind in _BOTH:
        found = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=queue),
                task_queue_type=kind,
                report_stats=True,
            ),
            timeout=RPC_TIMEOUT,
        )
        workers.append(
            sum(one.last_access_time.ToDatetime(tzinfo=UTC) > since for one in found.pollers)
        )
        waiting += found.stats.approximate_backlog_count
    return QueueState(min(workers), waiting)
