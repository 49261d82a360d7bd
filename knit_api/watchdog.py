"""A watchdog for calls of the store: a slow database is waited for, a frozen one is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.ports import ApiStore

T = TypeVar("T")

_abandoned: set[asyncio.Future[Any]] = set()


async def wait_or_abandon(work: Awaitable[T], timeout: float) -> T:
    """Waits for work at most `timeout` seconds; raises TimeoutError.

    Unlike `asyncio.timeout`, it does not wait for the cancellation of the work: that of a database
    driver asks the server to cancel, and waits for a frozen one to respond.
    """
    task = asyncio.ensure_future(work)
    try:
        if (await asyncio.wait({task}, timeout=timeout))[0]:
            return task.result()
        raise TimeoutError
    finally:
        _abandon(task)


def watched(
    store: ApiStore, *, check_interval: float = 5.0, ping_timeout: float = 3.0, limit: float = 60.0
) -> ApiStore:
    """Gives the store with every call bounded: it gives its result, or raises StoreUnavailable.

    While a call takes longer than `check_interval` seconds, the database is pinged at that interval
    and given up when a ping takes longer than `ping_timeout`. No call is waited for longer than
    `limit`: something in a live database keeps it from going on. Whether a call that was given up
    has changed anything is unknown.
    """
    watchdog = _Watchdog(store.ping, check_interval, ping_timeout, limit)
    return cast("ApiStore", _Watched(store, watchdog))


class _Watched:
    """A part of the store (`store.runs`) is bounded as the store itself is."""

    def __init__(self, part: Any, watchdog: _Watchdog) -> None:
        self._part = part
        self._watchdog = watchdog

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return _Watched(found, self._watchdog)

        @wraps(found)
        async def bounded(*arguments: Any, **options: Any) -> Any:
            return await self._watchdog.watch(found(*arguments, **options))

        return bounded


@dataclass(frozen=True, slots=True)
class _Watchdog:
    ping: Callable[[], Awaitable[None]]
    check_interval: float
    ping_timeout: float
    limit: float

    async def watch(self, call: Awaitable[T]) -> T:
        task = asyncio.ensure_future(call)
        deadline = asyncio.get_running_loop().time() + self.limit
        try:
            while not (await asyncio.wait({task}, timeout=self.check_interval))[0]:
                await self._check()
                if asyncio.get_running_loop().time() > deadline:
                    raise StoreUnavailable(
                        "the database took too long",
                        advice="ask for less at once (limit), or try again later",
                    )
            return task.result()
        finally:
            _abandon(task)

    async def _check(self) -> None:
        try:
            await wait_or_abandon(self.ping(), self.ping_timeout)
        except TimeoutError as error:
            raise StoreUnavailable(
                "the database does not answer",
                advice="try again in some seconds; if this was to change something, look first "
                "whether it did",
            ) from error


def _abandon(task: asyncio.Future[Any]) -> None:
    if not task.done():
        _abandoned.add(task)  # the loop itself holds tasks weakly only
        task.add_done_callback(_forget)
        task.cancel()


def _forget(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved: nobody is left to handle it
