"""How tests wait: for the thing itself, and long enough for a machine that has other work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 100.0
"""Seconds. What has not happened by then will not happen; no test that passes waits so long."""


async def until(condition: Callable[[], object]) -> None:
    """Waits until something is the case; raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], object]) -> None:
    """Does the same where there is no event loop; raises AssertionError."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.01)
