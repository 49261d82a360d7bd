"""When a watch asks the API server, although the informers tell it of every change; pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_RARELY: Final = 10
"""How many times its usual period a watch waits at most."""


@dataclass(slots=True)
class Asking:
    """The instant of the next request of one watch, on its own clock, in seconds.

    Requests only mend what the informers have missed, and so become rarer with every answer that is
    no news: of a thousand Runs that take an hour, a look a minute would be most requests by far.
    """

    usual: timedelta
    pending: timedelta
    """Where it starts while a Job waits for its first pod: the informers do not tell of Jobs."""
    due: float
    interval: float = 0.0

    @classmethod
    def begun(cls, now: float, *, usual: timedelta, pending: timedelta) -> Asking:
        """Begins with what the informers know, if they know the pod."""
        return cls(usual, pending, now + usual.total_seconds())

    def asked(self, now: float, *, is_news: bool, has_pod: bool) -> None:
        """Notes an answer, and whether it differs from what was known."""
        least, most = (self.usual, self.usual * _RARELY) if has_pod else (self.pending, self.usual)
        wanted = 0.0 if is_news else 2 * self.interval
        self.interval = max(min(wanted, most.total_seconds()), least.total_seconds())
        self.due = now + self.interval
