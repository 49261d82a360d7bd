"""Measures how long the transfer agent has been idle."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ShuttingDown(Exception):
    """The agent takes no more requests: it has been idle for too long."""


class IdleTimer:
    """Counts the requests in progress; thread-safe."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._unused = threading.Condition(self._lock)
        self._under_way = 0
        self._idle_since = time.monotonic()
        self._ended = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Keeps the agent alive during a request; raises ShuttingDown when it is too late."""
        with self._lock:
            if self._ended:
                raise ShuttingDown
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._idle_since = time.monotonic()
                self._unused.notify_all()

    def wait_until_unused(self, seconds: float) -> None:
        """Refuses further requests, and waits at most so long until none is in progress."""
        with self._unused:
            self._ended = True
            self._unused.wait_for(lambda: not self._under_way, seconds)

    def seconds_left(self) -> float:
        """Returns how long to wait before asking again; 0 for good once idle for long enough."""
        with self._lock:
            if self._under_way:
                return self._idle_seconds
            left = max(0.0, self._idle_since + self._idle_seconds - time.monotonic())
            self._ended = self._ended or not left
            return left
