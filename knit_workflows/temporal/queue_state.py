"""The state of task queues: how many workers poll them, and their backlogs; and of Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from knit_workflows.settings import QueueSettings
from knit_workflows.temporal.backup_schedule import FoundSchedule, find_schedule
from knit_workflows.temporal.worker_versions import VersionAtWork, versions_at_work

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
    states = [await _state(client, queue, kind) for kind in _BOTH]
    return QueueState(min(one.workers for one in states), sum(one.waiting for one in states))


async def activity_queue_state(client: Client, queue: str) -> QueueState:
    """Describes a queue of which every worker has activities, some of them no workflows."""
    states = [await _state(client, queue, kind) for kind in _BOTH]
    return QueueState(states[-1].workers, sum(one.waiting for one in states))


async def _state(client: Client, queue: str, kind: TaskQueueType.ValueType) -> QueueState:
    since = datetime.now(UTC) - RECENTLY
    found = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=kind,
            report_stats=True,
        ),
        timeout=RPC_TIMEOUT,
    )
    workers = sum(one.last_access_time.ToDatetime(tzinfo=UTC) > since for one in found.pollers)
    return QueueState(workers, found.stats.approximate_backlog_count)


@dataclass(frozen=True, slots=True)
class RoleState:
    """A role, its task queue, how many workers poll it, and how many steps wait for them."""

    role: str
    queue: str
    workers: int
    waiting: int


@dataclass(frozen=True, slots=True)
class EngineState:
    """Temporal's version and one state per role; or `problem`: why it cannot be asked."""

    version: str | None = None
    roles: Sequence[RoleState] = field(default=())
    problem: str = ""
    backups: FoundSchedule | None = None
    """The schedule of backups, if there is one."""
    versions: Sequence[VersionAtWork] = field(default=())
    """Of the workers, if they have versions."""


async def engine_state(client: Client, queues: QueueSettings, deployment: str) -> EngineState:
    """Asks Temporal; roles that share a queue share its workers.

    `deployment` is what Temporal calls the workers of all versions together.
    """
    by_role = {name: getattr(queues, name) for name in type(queues).model_fields}
    wanted = sorted(set(by_role.values()))
    try:
        info = await client.workflow_service.get_system_info(
            GetSystemInfoRequest(), timeout=RPC_TIMEOUT
        )
        found = await asyncio.gather(*(activity_queue_state(client, one) for one in wanted))
        backups = await find_schedule(client)
        versions = await versions_at_work(client, queues.engine, deployment, RECENTLY)
    except (RPCError, RuntimeError, TimeoutError) as error:
        return EngineState(problem=f"Temporal does not answer: {error}")
    states = dict(zip(wanted, found, strict=True))
    return EngineState(
        info.server_version,
        [
            RoleState(role, queue, states[queue].workers, states[queue].waiting)
            for role, queue in by_role.items()
        ],
        backups=backups,
        versions=versions,
    )
