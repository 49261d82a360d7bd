"""Heartbeats of long activities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import activity


@asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Sends a heartbeat every third of the activity's heartbeat timeout while inside.

    The first one is sent after that interval, so a short step costs no request. They stop only if
    the process dies or its event loop hangs.
    """
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        yield
        return
    beats = _Beats(timeout.total_seconds() / 3)
    try:
        yield
    finally:
        beats.stop()


class _Beats:
    """A timer instead of a task: thousands of activities may wait in a process."""

    __slots__ = ("_interval", "_timer")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._timer = self._next()

    def stop(self) -> None:
        """Sends no more."""
        self._timer.cancel()

    def _next(self) -> asyncio.TimerHandle:
        # It runs in the activity's own context, which says whose heartbeat it is.
        return asyncio.get_running_loop().call_later(self._interval, self._send)

    def _send(self) -> None:
        self._timer = self._next()
        activity.heartbeat()
