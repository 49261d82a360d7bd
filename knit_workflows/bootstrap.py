"""`python -m knit_workflows.bootstrap`: prepares a Temporal for knit, once or any number of times.

Makes the namespace that `TEMPORAL_NAMESPACE` names, unless it is there, and adds knit's search
attributes. Those are optional: where they may not be added (Temporal Cloud, missing rights) knit
works without them. Schedules need no preparation: the first worker with the role `engine` makes
them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import log as logs
from knit_workflows import names
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.settings import SettingsRefused, read_settings
from knit_workflows.start_up import Patience, reach_temporal, run_and_leave, seconds
from knit_workflows.temporal.connection import client_config

log = logging.getLogger(__name__)

DEFAULT_RETENTION: Final = timedelta(days=3)
_TIMEOUT: Final = timedelta(seconds=10)
_KNOWN_WITHIN: Final = 30.0
"""Seconds; Temporal's servers read the list of namespaces every ten."""
_PAUSE: Final = 0.5
_TRANSIENT: Final = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.CANCELLED,
    }
)


async def bootstrap(
    config: ClientConnectConfig, *, retention: timedelta, patience: Patience | None = None
) -> None:
    """Prepares the namespace; a second call changes nothing, its retention included.

    Raises:
        EngineUnavailable: Temporal is away, or the namespace neither exists nor can be made.
    """

    async def attempt() -> None:
        client = await reach_temporal(config)
        try:
            await _ensure_namespace(client, retention)
            await _once_known(lambda: _add_search_attributes(client))
        except RPCError as cause:
            raise EngineUnavailable(
                f"Temporal refuses to prepare the namespace {client.namespace!r}: {cause.message}",
                advice="make the namespace by hand, or use credentials that may do so",
            ) from cause

    await (patience or Patience()).wait_for(attempt)


async def _once_known(step: Callable[[], Awaitable[None]]) -> None:
    """Takes a step in a namespace that may have been made just now: Temporal learns of it late."""
    clock = asyncio.get_running_loop().time
    ends = clock() + _KNOWN_WITHIN
    while True:
        try:
            return await step()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or clock() >= ends:
                raise
        await asyncio.sleep(_PAUSE)


async def _ensure_namespace(client: Client, retention: timedelta) -> None:
    namespace = client.namespace
    if await _has_namespace(client):
        log.info("namespace %s is there", namespace, extra={"action": "namespace_found"})
        return
    kept = Duration()
    kept.FromTimedelta(retention)
    wanted = RegisterNamespaceRequest(
        namespace=namespace,
        description="Runs of knit",
        workflow_execution_retention_period=kept,
    )
    try:
        await client.workflow_service.register_namespace(wanted, timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise
    log.info("namespace %s is made", namespace, extra={"action": "namespace_made"})


async def _has_namespace(client: Client) -> bool:
    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _add_search_attributes(client: Client) -> None:
    """Adds what is missing; a refusal is logged, since knit works without them."""
    operator, namespace = client.operator_service, client.namespace
    try:
        found = await operator.list_search_attributes(
            ListSearchAttributesRequest(namespace=namespace), timeout=_TIMEOUT
        )
        missing = [name for name in names.SEARCH_ATTRIBUTES if name not in found.custom_attributes]
        if not missing:
            return
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        await operator.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=namespace, search_attributes=dict.fromkeys(missing, keyword)
            ),
            timeout=_TIMEOUT,
        )
    except RPCError as error:
        if error.status in _TRANSIENT or error.status is RPCStatusCode.NOT_FOUND:
            raise  # a namespace that was just made is not known everywhere at once
        log.warning(
            "search attributes are not added, knit works without them: %s",
            error.message,
            extra={"action": "search_attributes_refused"},
        )
        return
    log.info("search attributes are added", extra={"action": "search_attributes_added"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepares, or says in words why not: exit code 2 for a wrong setting, 1 if it is away."""
    parser = argparse.ArgumentParser(prog="python -m knit_workflows.bootstrap", description=__doc__)
    parser.add_argument(
        "--retention",
        type=seconds,
        default=DEFAULT_RETENTION,
        metavar="SECONDS",
        help="how long a new namespace keeps ended workflows (default: three days)",
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=timedelta(),
        metavar="SECONDS",
        help="how long Temporal may be away (default: not at all)",
    )
    options = parser.parse_args(arguments)
    try:
        settings, temporal = read_settings(), client_config()
    except SettingsRefused as refused:
        parser.error(str(refused))
    logs.set_up(settings.log_format, settings.log_level)

    async def run() -> int:
        patience = Patience(options.patience)
        try:
            await bootstrap(temporal, retention=options.retention, patience=patience)
        except EngineUnavailable as error:
            sys.stderr.write(f"error: {error.reason}\nhint: {error.advice}\n")
            return 1
        return 0

    run_and_leave(run())


if __name__ == "__main__":
    main()
