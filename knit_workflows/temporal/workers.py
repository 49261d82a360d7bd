"""Runs the Workers of a process, and ends them as soon as nothing is left that has to be finished.

By themselves they end one after the other, and when Temporal is gone each reports its activities
again and again first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Worker,
)

_QUICK: Final = 0.3
"""Seconds that Workers take at most whose Temporal answers, and that have nothing to finish."""
_ANSWER_WITHIN: Final = timedelta(milliseconds=500)
_FAILED_ENDS_WITHIN: Final = timedelta(seconds=10)
"""How long the end of Workers may take of which one has failed. Temporal's core may never come to
it: when the namespace is gone, for one."""


class Underway(Interceptor):
    """Counts the activities that this process carries out, and hears of the first Worker to fail.

    A Worker's `run` tells of a failure only when the Worker has ended, which may be never.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    async def on_fatal_error(self, cause: BaseException) -> None:
        """Is what each Worker calls."""
        self.failure = self.failure or cause
        self._failed.set()

    async def until_failed(self) -> None:
        """Waits until a Worker has failed."""
        await self._failed.wait()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Counts those of one Worker."""
        return _Counting(next, self)

    async def carry_out(self, work: Awaitable[Any]) -> Any:
        """Counts one while it lasts."""
        self._count += 1
        self._none.clear()
        try:
            return await work
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def until_none(self, within: timedelta) -> None:
        """Waits until there is none, or until that time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()):
                await self._none.wait()


class _Counting(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, underway: Underway) -> None:
        super().__init__(next)
        self._underway = underway

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """Passes it on."""
        return await self._underway.carry_out(self.next.execute_activity(input))


@asynccontextmanager
async def working(
    workers: Sequence[Worker], client: Client, underway: Underway, *, patience: timedelta
) -> AsyncIterator[asyncio.Future[None]]:
    """Runs the Workers while inside; gives a future that is done as soon as one of them has failed.

    All are ended at once. If Temporal is gone, nobody can be told how activities have ended, and
    Temporal will have them tried again: then only those under way are waited for, for so long. What
    is left of the Workers' own ends goes on in the background. At last the failure is raised.
    """
    running = [asyncio.ensure_future(worker.run()) for worker in workers]
    all_running = asyncio.gather(*running)
    failing = asyncio.ensure_future(underway.until_failed())
    over = asyncio.ensure_future(_first_of(all_running, failing))
    try:
        yield over
    finally:
        failing.cancel()
        ending = asyncio.gather(*map(_end, workers, running))
        gives_up_at = time.monotonic() + _FAILED_ENDS_WITHIN.total_seconds()
        while not await _within(ending, _QUICK):
            if underway.failure and time.monotonic() > gives_up_at:
                break
            if not await _has_answer(client):
                await underway.until_none(patience)
                break
    if all_running.done():
        all_running.result()
    elif underway.failure:
        raise underway.failure


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _end(worker: Worker, run: asyncio.Future[None]) -> None:
    """Shuts one down; what its plugins do is over then, or goes on in the background.

    If one of them has failed before the Worker itself began, its shutdown would never be over.
    """
    shutdown = asyncio.ensure_future(worker.shutdown())
    await asyncio.wait({shutdown, run}, return_when=asyncio.FIRST_COMPLETED)
    shutdown.cancel()


async def _within(future: asyncio.Future[Any], seconds: float) -> bool:
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)


async def _has_answer(client: Client) -> bool:
    try:
        request = GetSystemInfoRequest()
        await client.workflow_service.get_system_info(request, timeout=_ANSWER_WITHIN)
    except RPCError:
        return False
    return True
