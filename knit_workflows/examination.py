"""`python -m knit_workflows.examination`: what a process here finds of its database and Temporal.

`knit admin doctor` runs it in a pod of the API: only there are the addresses, credentials and
network those of knit. It prints one JSON object, and ends with 0 whatever it found.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from knit_workflows import names
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.settings import Settings, SettingsRefused, StoreSettings, read_settings
from knit_workflows.start_up import run_and_leave
from knit_workflows.store import PostgresStore
from knit_workflows.temporal.connection import client_config, connect
from knit_workflows.temporal.queue_state import RECENTLY
from knit_workflows.temporal.trial import try_settings
from knit_workflows.temporal.worker_versions import versions_at_work

_PATIENCE: Final = timedelta(seconds=10)
_TRIAL: Final = timedelta(seconds=20)


async def examine_temporal(settings: Settings) -> dict[str, Any]:
    """Gives Temporal's version, namespace, retention in days, and the search attributes missing.

    `trial` is what its dynamic configuration is seen to do, or the `problem` of the trial. Or
    `problem`: why Temporal cannot be asked. `workerVersions` is empty where workers have none.
    """
    found: dict[str, Any] = {}
    try:
        config = client_config()
        found["address"] = config["target_host"]
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            client = await connect(config)
            found["namespace"] = client.namespace
            await _describe(client, found)
            found["workerVersions"] = await _versions(client, settings)
    except (SettingsRefused, RPCError, RuntimeError, TimeoutError) as cause:
        found["problem"] = str(cause) or "it does not answer in time"
        return found
    found["trial"] = await _try(client)
    return found


async def _try(client: Client) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_TRIAL.total_seconds()):
            return await try_settings(client)
    except (RPCError, TimeoutError) as cause:
        return {"problem": str(cause) or f"not done within {_TRIAL.total_seconds():.0f} s"}


async def _versions(client: Client, settings: Settings) -> list[dict[str, Any]]:
    deployment = settings.versioning.deployment_name
    listed = await versions_at_work(client, settings.queues.engine, deployment, RECENTLY)
    return [
        {
            "buildId": one.build_id,
            "state": one.state,
            "workers": one.workers,
            "workflows": one.workflows,
        }
        for one in listed
    ]


async def _describe(client: Client, found: dict[str, Any]) -> None:
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    found["version"] = info.server_version
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    retention = described.config.workflow_execution_retention_ttl.ToTimedelta()
    found["retentionDays"] = retention / timedelta(days=1)
    found["updates"] = described.namespace_info.capabilities.sync_update
    try:
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError:  # Temporal Cloud has no such service
        return
    known = {*listed.custom_attributes, *listed.system_attributes}
    found["missingAttributes"] = sorted(set(names.SEARCH_ATTRIBUTES) - known)


async def examine_database(settings: StoreSettings) -> dict[str, Any]:
    """Says whether the database answers and has this version's tables, or `problem`: why not."""
    store = PostgresStore(settings)
    try:
        await store.open()
    except StoreUnavailable as cause:
        return {"problem": cause.reason, "advice": cause.advice}
    finally:
        await store.aclose()
    return {}


async def examine() -> dict[str, Any]:
    """Gives all of it, and this machine's clock."""
    clock = datetime.now(UTC).isoformat()
    try:
        settings = read_settings()
    except SettingsRefused as refused:
        return {"clock": clock, "problem": str(refused)}
    temporal, database = await asyncio.gather(
        examine_temporal(settings), examine_database(settings.store)
    )
    return {"clock": clock, "temporal": temporal, "database": database}


async def show() -> int:
    """Prints it; gives the exit code."""
    sys.stdout.write(f"{json.dumps(await examine())}\n")
    return 0


def main() -> None:
    """Prints it, and leaves the process."""
    run_and_leave(show())


if __name__ == "__main__":
    main()
