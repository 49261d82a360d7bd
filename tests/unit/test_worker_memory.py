"""A worker gives back the memory that a burst of Runs has left full of holes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import psutil

from knit_workflows.worker import gives_memory_back

_MIB = 1 << 20


def _resident() -> int:
    return psutil.Process().memory_info().rss


async def test_what_lies_free_between_objects_in_use_is_given_back() -> None:
    """The C library alone returns only the end of its heap."""
    objects = [bytes(2_000) for _ in range(20_000)]
    kept = objects[::100]
    del objects
    full = _resident()
    giving = asyncio.create_task(gives_memory_back(timedelta(milliseconds=1)))
    try:
        while _resident() > full - 25 * _MIB:
            await asyncio.sleep(0.01)
    finally:
        giving.cancel()
        with suppress(asyncio.CancelledError):
            await giving
    assert len(kept) == 200
