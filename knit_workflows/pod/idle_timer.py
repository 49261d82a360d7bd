"""Knows how long an agent has had nothing to do."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ending(Exception):
    """The agent takes no more requests."""


class Activity:
    """Counts requests under way; safe to use from many threads."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._under_way = 0
        self._idle_since = time.monotonic()
        self._ended = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Holds the agent alive. Raises Ending if it has decided to end."""
        with self._lock:
            if self._ended:
                raise Ending
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._idle_since = time.monotonic()

    def seconds_left(self) -> float:
        """How long to wait before asking again; 0 once idle long enough, and then for good."""
        with self._lock:
            if self._under_way:
                return self._idle_seconds
            left = max(0.0, self._idle_since + self._idle_seconds - time.monotonic())
            self._ended = self._ended or not left
            return left
