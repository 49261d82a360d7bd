"""What happens within a moment is taken together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

import pytest

from knit_workflows.activities.runs.bunches import in_bunches
from tests.waiting import PATIENCE

LONG = timedelta(seconds=PATIENCE)
AT_ONCE = timedelta()


async def items(*values: int, then: BaseException | None = None) -> AsyncGenerator[int, None]:
    for one in values:
        yield one
    if then is not None:
        raise then


async def test_what_follows_at_once_comes_together() -> None:
    assert [one async for one in in_bunches(items(1, 2, 3), LONG)] == [(1, 2, 3)]
    assert [one async for one in in_bunches(items(), LONG)] == []


async def test_what_follows_later_comes_by_itself() -> None:
    told = asyncio.Event()

    async def slow() -> AsyncGenerator[int, None]:
        yield 1
        await told.wait()
        yield 2

    async with aclosing(in_bunches(slow(), AT_ONCE)) as bunches:
        assert await anext(bunches) == (1,)
        told.set()
        assert await anext(bunches) == (2,)
        with pytest.raises(StopAsyncIteration):
            await anext(bunches)


async def test_a_failure_comes_after_what_was_seen_before() -> None:
    async with aclosing(in_bunches(items(1, 2, then=OSError("away")), LONG)) as bunches:
        assert await anext(bunches) == (1, 2)
        with pytest.raises(OSError, match="away"):
            await anext(bunches)


async def test_whoever_stops_listening_leaves_nothing_waiting() -> None:
    """Neither when it is closed nor when it is cancelled does the source go on."""
    ended, waits = 0, asyncio.Event()

    async def endless() -> AsyncGenerator[int, None]:
        nonlocal ended
        try:
            yield 1
            waits.set()
            await asyncio.Event().wait()
        finally:
            ended += 1

    async with aclosing(in_bunches(endless(), AT_ONCE)) as bunches:
        assert await anext(bunches) == (1,)
    assert ended == 1
    waits.clear()
    waiting = asyncio.create_task(anext(in_bunches(endless(), LONG)))
    await waits.wait()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert ended == 2


async def test_a_cancellation_while_it_is_closed_is_not_lost() -> None:
    """Whoever is to end goes no further, though the source takes its time."""
    closing, went_on = asyncio.Event(), False

    async def slow_to_end() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closing.set()
            await asyncio.sleep(0.05)

    async def listen() -> None:
        nonlocal went_on
        async with aclosing(in_bunches(slow_to_end(), AT_ONCE)) as bunches:
            await anext(bunches)
        went_on = True

    listening = asyncio.create_task(listen())
    await closing.wait()
    listening.cancel()
    await asyncio.wait({listening})
    assert listening.cancelled() and not went_on
