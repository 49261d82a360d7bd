"""Spaces out attempts: exponential back-off with jitter; standard library only."""

from __future__ import annotations

import random


class Backoff:
    """Grows the pause between attempts from `first` to `most` seconds, `factor` times a step.

    Half of each pause is left to chance, so that many who failed together do not return together.
    """

    def __init__(self, first: float, most: float, *, factor: float = 2.0) -> None:
        self._first = first
        self._most = most
        self._factor = factor
        self._step = first

    def next(self) -> float:
        """Gives the seconds to wait before the next attempt, and lengthens the step after it."""
        pause = self._step * random.uniform(0.5, 1.0)
        self._step = min(self._step * self._factor, self._most)
        return pause

    def reset(self) -> None:
        """Starts over with the first step; to be called after a success."""
        self._step = self._first
