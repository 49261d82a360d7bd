"""Connections to services that wait for their next request: few, for a short time, and sound ones.

Only requests that may be made twice (safe ones, without a body) begin on such a connection: a
service may be closing it at that very moment, and nobody could tell whether it has seen the
request. Every other request gets a new one, and leaves it here afterwards.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from typing import Final

from knit_api.extra.endpoints import Endpoint
from knit_api.extra.upstream import Upstream

MOST: Final = 32
"""How many wait per service; of more the oldest is closed."""


class Pool:
    """The connections of one process."""

    def __init__(self, keep: timedelta) -> None:
        """`keep` says how long a connection waits at most; zero: not at all."""
        self._keep = keep.total_seconds()
        self._waiting: dict[str, deque[tuple[Upstream, asyncio.TimerHandle]]] = {}

    async def take(self, endpoint: Endpoint) -> Upstream | None:
        """Gives the one that was used last; None: there is none.

        One of which the service has ended its side is closed instead.
        """
        while waiting := self._waiting.get(endpoint.origin):
            upstream, expiry = waiting.pop()
            expiry.cancel()
            quiet = False
            try:
                quiet = await upstream.is_quiet()
            finally:
                if not quiet:
                    upstream.close()
            if quiet:
                return upstream.next(endpoint)
        return None

    def put(self, upstream: Upstream, promised: float | None) -> None:
        """Keeps a connection whose exchange is complete.

        `promised` is for how many seconds the service will (None: it has not said so). Half of it
        is used, so that both sides do not come to its end at the same time.
        """
        keep = self._keep if promised is None else min(self._keep, promised / 2)
        if keep <= 0:
            upstream.close()
            return
        waiting = self._waiting.setdefault(upstream.endpoint.origin, deque())
        if len(waiting) >= MOST:
            self._close(*waiting.popleft())
        expiry = asyncio.get_running_loop().call_later(keep, self._expire, upstream)
        waiting.append((upstream, expiry))

    def close(self) -> None:
        """Closes all that wait."""
        for waiting in self._waiting.values():
            for upstream, expiry in waiting:
                self._close(upstream, expiry)
        self._waiting.clear()

    def _expire(self, upstream: Upstream) -> None:
        origin = upstream.endpoint.origin
        left = deque(one for one in self._waiting[origin] if one[0] is not upstream)
        if left:
            self._waiting[origin] = left
        else:
            del self._waiting[origin]
        upstream.close()

    def _close(self, upstream: Upstream, expiry: asyncio.TimerHandle) -> None:
        expiry.cancel()
        upstream.close()
