"""When a watch asks the API server, although the informers tell it of every change; pure.

All instants are those of one clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from knit_workflows.compute.base import StartFailure

_RARELY: Final = 10
"""How many times its usual period a watch waits at most."""


@dataclass(slots=True)
class Asking:
    """The instant of the next request of one watch.

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


@dataclass(slots=True)
class Stall:
    """A pod that is pending without a reason, and the reason that was looked for.

    Each look is a request per claim and more: where a scheduler has thousands of pods before it,
    nobody is helped by one of each pod every half a minute.
    """

    after: timedelta
    reason: StartFailure | None = None
    _since: float | None = None
    _version: int = 0
    _pause: float = 0.0

    def over(self) -> None:
        """Notes that it is no longer so."""
        self._since = self.reason = None

    def is_due(self, now: float, version: int) -> bool:
        """Says whether to look for the reason: ever more rarely while the pod stays as it is."""
        if self._since is None or version != self._version:
            self._since = now if self._since is None else self._since
            self._version, self._pause = version, self.after.total_seconds()
        return now - self._since >= self._pause

    def looked(self, now: float) -> None:
        """Notes that it is being looked for."""
        self._since = now
        self._pause = min(2 * self._pause, _RARELY * self.after.total_seconds())


@dataclass(slots=True)
class Pace:
    """How many looks all watches of a process take: so many a second, and a burst of them at first.

    One look is a handful of requests. A scheduler that has thousands of pods before it, or a
    provisioner as many claims, has all of them wait for minutes; each has then its turn later.
    """

    a_second: float
    burst: int
    _left: float = 0.0
    _at: float = float("-inf")

    def may(self, now: float) -> bool:
        """Says whether to take a look now, and counts it."""
        self._left = min(self.burst, self._left + (now - self._at) * self.a_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
