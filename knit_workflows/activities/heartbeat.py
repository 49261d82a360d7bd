"""Heartbeats of long activities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from temporalio import activity


@asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Sends a heartbeat every third of the activity's heartbeat timeout while inside.

    The first one is sent after that interval, so a short step costs no request. They are sent by a
    task of their own and stop only if the process dies or its event loop hangs.
    """
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        yield
        return
    heartbeats = asyncio.create_task(_send(timeout.total_seconds() / 3))
    try:
        yield
    finally:
        heartbeats.cancel()
        with suppress(asyncio.CancelledError):
            await heartbeats


async def _send(interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        activity.heartbeat()
