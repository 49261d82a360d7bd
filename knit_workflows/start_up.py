"""What a process needs before it can work, and how long it waits for that.

On a cluster everything is installed at once: the database may still be migrated, and Temporal's
namespace still be made, when a worker starts. One that waits is there at once afterwards; one that
ends is started again later and later.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NoReturn, TypeVar

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows.domain.errors import EngineUnavailable, StoreIsNewer, StoreUnavailable
from knit_workflows.health import Health
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.temporal.connection import connect

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_PAUSE: Final = 1.0
_CONNECT_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = timedelta(seconds=5)


class Interrupted(Exception):
    """The process was told to end while it waited."""


@dataclass(frozen=True)
class Patience:
    """How long database and Temporal may be away at the start; `stopping` ends the wait."""

    span: timedelta = timedelta()
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    health: Health = field(default_factory=Health)

    async def wait_for(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Gives what `attempt` gives, as soon as it does not raise that something is away.

        Raises:
            EngineUnavailable, StoreUnavailable: it still is, after `span`.
            StoreIsNewer: at once, since no wait makes this knit any newer.
            Interrupted: `stopping` was set.
        """
        clock = asyncio.get_running_loop().time
        ends, said = clock() + self.span.total_seconds(), ""
        while True:
            try:
                return await attempt()
            except StoreIsNewer:
                raise
            except (EngineUnavailable, StoreUnavailable) as away:
                if clock() >= ends:
                    raise
                self.health.waits_for(away.reason)
                if away.reason != said:
                    said = away.reason
                    log.warning("waits: %s", said, extra={"action": "start_waits"})
            if await _is_set_within(self.stopping, _PAUSE):
                raise Interrupted


async def reach_temporal(config: ClientConnectConfig) -> Client:
    """Connects; raises EngineUnavailable, with the address, when Temporal does not answer."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            return await connect(config)
    except (RuntimeError, TimeoutError) as cause:
        reason = str(cause) or f"nothing within {_CONNECT_TIMEOUT:g} s"
        raise EngineUnavailable(
            f"Temporal does not answer at {config.get('target_host')}: {reason}",
            advice="start it, or set TEMPORAL_ADDRESS",
        ) from cause


async def reach_namespace(config: ClientConnectConfig) -> Client:
    """Connects, and makes sure that the namespace exists; raises EngineUnavailable."""
    client = await reach_temporal(config)
    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=_ANSWER_TIMEOUT
        )
    except RPCError as cause:
        if cause.status is RPCStatusCode.NOT_FOUND:
            raise EngineUnavailable(
                f"Temporal has no namespace {client.namespace!r}",
                advice="make it (python -m knit_workflows.bootstrap), or set TEMPORAL_NAMESPACE",
            ) from cause
        raise EngineUnavailable(
            f"Temporal does not show its namespace {client.namespace!r}: {cause.message}",
            advice="check TEMPORAL_NAMESPACE, and the credentials",
        ) from cause
    return client


async def answers(client: Client) -> None:
    """Returns if Temporal answers; raises RPCError."""
    await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=_ANSWER_TIMEOUT)


async def require_schema(settings: StoreSettings) -> None:
    """Returns if the database is as this version needs it; raises StoreUnavailable."""
    store = PostgresStore(settings)
    try:
        await store.open()
    finally:
        await store.aclose()


def run_and_leave(work: Coroutine[None, None, int]) -> NoReturn:
    """Runs it and leaves the process with the exit code that it gives; 1 after an exception.

    At once: threads of Temporal's core run still, and may crash the interpreter in its shutdown.
    """
    code = 1
    try:
        code = asyncio.run(work)
    except Exception:
        log.exception("ended")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def seconds(text: str) -> timedelta:
    """Reads seconds, for a command line; raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return timedelta(seconds=number)


async def _is_set_within(event: asyncio.Event, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False
