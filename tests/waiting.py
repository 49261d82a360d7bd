"""How tests wait: for the thing itself, and long enough for a machine that has other work."""

from __future__ import annotations

import asyncio
import socket
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


def wait_for_port(address: str, port: int) -> None:
    """Waits until a TCP port takes connections; raises AssertionError with the last refusal.

    Behind a Service of Kubernetes it may refuse them for a moment after its pod is ready, which
    is all that `helm --wait` waits for: kube-proxy has still to hear of the pod.
    """
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError as refusal:
            assert time.monotonic() < ends, f"{address}:{port}: {refusal}"
            time.sleep(0.1)
        else:
            return
