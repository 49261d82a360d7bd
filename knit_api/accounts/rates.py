"""How often somebody may do something: token buckets, one per key, in this process only."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_MAX_KEYS: Final = 50_000
"""The most keys that are remembered; those that have not been seen for longest are forgotten."""


class Rates:
    """Allows each key so many per minute on average, and as many at once."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What is left of a key, and since when; a key that is not there has everything left."""

    def take(self, key: str) -> float:
        """Takes one; gives 0, or the seconds after which there is one if there is none."""
        now = self._clock()
        left, since = self._left.get(key, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        if left < 1:
            return (1 - left) / self._per_second
        self._keep(key, left - 1, now)
        return 0.0

    def give_back(self, key: str) -> None:
        """Undoes the last `take`."""
        left, since = self._left.get(key, (self._most, self._clock()))
        self._keep(key, min(self._most, left + 1), since)

    def _keep(self, key: str, left: float, now: float) -> None:
        self._left[key] = left, now
        self._left.move_to_end(key)
        if len(self._left) > _MAX_KEYS:
            self._left.popitem(last=False)
