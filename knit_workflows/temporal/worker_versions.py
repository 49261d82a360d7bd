"""The versions of knit's workers, as Temporal keeps them: with which one Runs begin, which drain.

Temporal calls all versions together a *worker deployment*, and one version a *build*. It routes
what begins to the *current* version; without one, to workers that have no version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.deployment.v1 import WorkerDeploymentInfo, WorkerDeploymentVersion
from temporalio.api.enums.v1 import (
    TaskQueueType,
    WorkerDeploymentVersionStatus,
    WorkerVersioningMode,
)
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentVersionRequest,
    ListWorkerDeploymentsRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

UNVERSIONED: Final = ""
"""The build of workers without a version."""
_TIMEOUT: Final = timedelta(seconds=10)
_STATUS: Final = "WORKER_DEPLOYMENT_VERSION_STATUS_"


@dataclass(frozen=True, slots=True)
class Routing:
    """Where a task queue's new workflows go, and who is there.

    `current`: a build, `UNVERSIONED`, or None: it is a build of another deployment. `polling`: how
    many workers a build of this deployment has; `UNVERSIONED` is among them if it has some.
    """

    current: str | None
    polling: Mapping[str, int]


async def find_routing(client: Client, queue: str, deployment: str, within: timedelta) -> Routing:
    """Asks for it; workers count if they have polled `within` this time; raises RPCError."""
    found: DescribeTaskQueueResponse = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        ),
        timeout=_TIMEOUT,
    )
    since = datetime.now(UTC) - within
    current = found.versioning_info.current_deployment_version
    # Nothing is said of a server without versions: all its workers are without.
    is_other = current.build_id and current.deployment_name != deployment
    return Routing(
        current=None if is_other else current.build_id,
        polling=Counter(
            _build_of(one)
            for one in found.pollers
            if one.last_access_time.ToDatetime(UTC) > since and _is_of(one, deployment)
        ),
    )


def _is_versioned(poller: PollerInfo) -> bool:
    mode = poller.deployment_options.worker_versioning_mode
    return mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED


def _is_of(poller: PollerInfo, deployment: str) -> bool:
    return not _is_versioned(poller) or poller.deployment_options.deployment_name == deployment


def _build_of(poller: PollerInfo) -> str:
    return poller.deployment_options.build_id if _is_versioned(poller) else UNVERSIONED


@dataclass(frozen=True, slots=True)
class WorkerVersion:
    """One version. `state`: `current`, `ramping`, `draining`, `drained` or `inactive`.

    `since`: when it came into this state, if that is known.
    """

    build_id: str
    state: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerDeployment:
    """All versions, the newest first. `current`: that of new Runs, or `UNVERSIONED`.

    `token` is for changes: Temporal refuses that of a state that has changed since.
    """

    name: str
    current: str
    versions: Sequence[WorkerVersion] = field(default=())
    token: bytes = b""


async def find_deployment(client: Client, name: str) -> WorkerDeployment | None:
    """Asks for it; None: no versioned worker has ever been there; raises RPCError."""
    request = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=name)
    try:
        found = await client.workflow_service.describe_worker_deployment(request, timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    info = found.worker_deployment_info
    summaries = sorted(
        info.version_summaries, key=lambda one: one.create_time.ToNanoseconds(), reverse=True
    )
    return WorkerDeployment(
        name,
        info.routing_config.current_deployment_version.build_id,
        [_version(one) for one in summaries],
        found.conflict_token,
    )


def _version(found: WorkerDeploymentInfo.WorkerDeploymentVersionSummary) -> WorkerVersion:
    status = WorkerDeploymentVersionStatus.Name(found.status).removeprefix(_STATUS).lower()
    changes: dict[str, Timestamp] = {
        "current": found.current_since_time,
        "ramping": found.ramping_since_time,
        "draining": found.drainage_info.last_changed_time,
        "drained": found.drainage_info.last_changed_time,
    }
    since = changes.get(status, found.create_time)
    return WorkerVersion(
        found.deployment_version.build_id,
        status if status in changes else "inactive",
        since.ToDatetime(UTC) if since.ToNanoseconds() else None,
    )


@dataclass(frozen=True, slots=True)
class VersionAtWork:
    """A version, how many workers with the role `engine` it has, and what is left to do for them.

    `workflows` are those under way that end with this version; None: it is not asked, since more
    may begin, or Temporal cannot say.
    """

    build_id: str
    state: str
    since: datetime | None
    workers: int
    workflows: int | None


async def versions_at_work(
    client: Client, queue: str, deployment: str, within: timedelta
) -> Sequence[VersionAtWork]:
    """Gives all versions, the newest first; none where workers have no versions, or none may ask.

    Workers are counted on this task queue. Raises RPCError.
    """
    try:
        if not await _is_listed(client, deployment):
            return ()
        found = await find_deployment(client, deployment)
    except RPCError as error:
        if error.status in (RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.PERMISSION_DENIED):
            return ()
        raise
    routing = await find_routing(client, queue, deployment, within)
    return [
        VersionAtWork(
            one.build_id,
            one.state,
            one.since,
            routing.polling.get(one.build_id, 0),
            await _pinned(client, deployment, one.build_id) if one.state == "draining" else None,
        )
        for one in (found.versions if found else ())
    ]


async def _is_listed(client: Client, deployment: str) -> bool:
    """Looks it up where its absence is no error, which Temporal would log each time."""
    request = ListWorkerDeploymentsRequest(namespace=client.namespace, page_size=1000)
    found = await client.workflow_service.list_worker_deployments(request, timeout=_TIMEOUT)
    return any(one.name == deployment for one in found.worker_deployments)


async def _pinned(client: Client, deployment: str, build_id: str) -> int | None:
    query = (
        f"TemporalWorkerDeploymentVersion = '{deployment}:{build_id}' AND "
        "TemporalWorkflowVersioningBehavior = 'Pinned' AND ExecutionStatus = 'Running'"
    )
    try:
        return (await client.count_workflows(query, rpc_timeout=_TIMEOUT)).count
    except RPCError:  # a server that has no such attributes
        return None


async def queues_of(client: Client, deployment: str, build_id: str) -> frozenset[str]:
    """Gives the task queues that workers of a version have polled; raises RPCError."""
    version = WorkerDeploymentVersion(deployment_name=deployment, build_id=build_id)
    request = DescribeWorkerDeploymentVersionRequest(
        namespace=client.namespace, deployment_version=version
    )
    try:
        found = await client.workflow_service.describe_worker_deployment_version(
            request, timeout=_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:  # it is noted a moment after its first poll
            return frozenset()
        raise
    return frozenset(one.name for one in found.worker_deployment_version_info.task_queue_infos)


async def make_current(client: Client, deployment: WorkerDeployment, build_id: str) -> None:
    """Has new Runs begin with this version, or with workers without one.

    Raises:
        RPCError: Temporal refuses it, as when the deployment has changed since it was found.
    """
    await client.workflow_service.set_worker_deployment_current_version(
        SetWorkerDeploymentCurrentVersionRequest(
            namespace=client.namespace,
            deployment_name=deployment.name,
            build_id=build_id,
            conflict_token=deployment.token,
            identity=client.identity,
            # Who asks has waited for all that it knows of; a queue of before may be gone for good.
            ignore_missing_task_queues=True,
        ),
        timeout=_TIMEOUT,
    )
