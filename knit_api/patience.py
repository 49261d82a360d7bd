"""Bounds how long others are waited for: as long as they work, not while they are frozen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.ports import ApiStore

T = TypeVar("T")

LOOK_SECONDS: Final = 5.0
"""A call that takes so long has the database asked, again and again, whether it still answers."""
ANSWER_SECONDS: Final = 3.0
MOST_SECONDS: Final = 60.0
"""No call is waited for longer: something in a live database keeps it from going on."""

_abandoned: set[asyncio.Future[Any]] = set()


async def in_time(work: Awaitable[T], seconds: float) -> T:
    """Waits for work as long as that; raises TimeoutError.

    Unlike under `asyncio.timeout`, work that does not heed its cancellation is not waited for: a
    driver's first asks a frozen server to cancel, and waits for its answer.
    """
    task = asyncio.ensure_future(work)
    try:
        if (await asyncio.wait({task}, timeout=seconds))[0]:
            return task.result()
        raise TimeoutError
    finally:
        _abandon(task)


def patient(store: ApiStore) -> ApiStore:
    """Gives the store with every call bounded: it gives its result, or raises StoreUnavailable.

    A database that only takes long is waited for, one that does not answer at all is given up
    within some eight seconds. What a given-up call has changed, if anything, is unknown.
    """
    return cast("ApiStore", PatientStore(store, store.ping))


class PatientStore:
    """See `patient`; a part of the store (`store.runs`) is bounded as the store itself is."""

    def __init__(self, part: Any, ping: Callable[[], Awaitable[None]]) -> None:
        self._part = part
        self._ping = ping

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return PatientStore(found, self._ping)

        @wraps(found)
        async def bounded(*arguments: Any, **options: Any) -> Any:
            return await self._watched(found(*arguments, **options))

        return bounded

    async def _watched(self, call: Awaitable[T]) -> T:
        task = asyncio.ensure_future(call)
        end = asyncio.get_running_loop().time() + MOST_SECONDS
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
                await self._look()
                if asyncio.get_running_loop().time() > end:
                    raise StoreUnavailable(
                        "the database took too long",
                        advice="ask for less at once (limit), or try again later",
                    )
            return task.result()
        finally:
            _abandon(task)

    async def _look(self) -> None:
        try:
            await in_time(self._ping(), ANSWER_SECONDS)
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
        task.exception()  # nobody wants to hear of it any more
