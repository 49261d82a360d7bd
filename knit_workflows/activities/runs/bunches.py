"""Takes together what happens within a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Final, TypeVar

T = TypeVar("T")

_END: Final = object()


async def in_bunches(
    items: AsyncGenerator[T, None], within: timedelta
) -> AsyncGenerator[tuple[T, ...], None]:
    """Yields items in their order, each together with those that follow it `within` that time.

    What the source raises comes after all that it has yielded before. The source is still the
    caller's to close.
    """
    upcoming: asyncio.Future[object] = asyncio.ensure_future(anext(items, _END))
    try:
        while (first := await upcoming) is not _END:
            bunch = [first]
            while True:
                upcoming = asyncio.ensure_future(anext(items, _END))
                done, _ = await asyncio.wait({upcoming}, timeout=within.total_seconds())
                if not done or upcoming.exception() is not None or upcoming.result() is _END:
                    break
                bunch.append(upcoming.result())
            yield tuple(bunch)  # type: ignore[arg-type]
    finally:
        upcoming.cancel()
        await asyncio.wait({upcoming})  # not itself: a cancellation of the caller would be lost
        if not upcoming.cancelled():
            upcoming.exception()  # or the event loop would complain of it


async def one_by_one(items: AsyncGenerator[T, None]) -> AsyncGenerator[tuple[T, ...], None]:
    """Yields each item by itself, as soon as it comes."""
    async for item in items:
        yield (item,)
