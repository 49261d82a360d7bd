"""The one connection of a process that listens, shared by everything that waits for a NOTIFY."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql

from knit_workflows import names
from knit_workflows.backoff import Backoff
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.store.connection import connect

_log = logging.getLogger(__name__)

_CHANNELS: Final = (names.OUTBOX_CHANNEL, names.RUN_CHANNEL, names.THROTTLE_CHANNEL)
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 5.0


class Subscription:
    """Wakes one waiter; a notification that arrives between two waits ends the next at once."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()

    def notify(self) -> None:
        """Ends the present wait, or the next one."""
        self._notified.set()

    async def wait(self, timeout: timedelta) -> None:
        """Returns once there has been a notification since the last wait, or after `timeout`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                await self._notified.wait()
        self._notified.clear()


class Listener:
    """Listens from the first subscription on, and reconnects after an outage.

    Reconnected, it wakes every subscription: notifications sent meanwhile are lost.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._subscriptions: dict[tuple[str, str | None], set[Subscription]] = {}
        self._notified_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, channel: str, payload: str | None = None) -> Iterator[Subscription]:
        """Subscribes to notifications of a channel, or only to those with this payload."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="knit-listener")
        subscription = Subscription()
        subscriptions = self._subscriptions.setdefault((channel, payload), set())
        subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            subscriptions.discard(subscription)
            if not subscriptions:
                self._subscriptions.pop((channel, payload), None)

    def silence(self, channel: str) -> timedelta:
        """Gives how long ago the channel was last notified, or since when we have listened."""
        now = time.monotonic()
        return timedelta(seconds=now - self._notified_at.get(channel, now))

    async def aclose(self) -> None:
        """Stops listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _listen(self) -> None:
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS)
        while True:
            try:
                async with await connect(self._url) as connection:
                    for channel in _CHANNELS:
                        await connection.execute(
                            sql.SQL("LISTEN {}").format(sql.Identifier(channel))
                        )
                    self._notified_at = dict.fromkeys(_CHANNELS, time.monotonic())
                    self._notify_all()
                    backoff.reset()
                    async for notice in connection.notifies():
                        self._notify(notice.channel, notice.payload)
            except (StoreUnavailable, psycopg.Error) as cause:
                delay = backoff.next()
                _log.warning(
                    "the listening connection is lost",
                    extra={"action": "listener_lost", "retry_in_s": delay, "cause": str(cause)},
                )
                await asyncio.sleep(delay)

    def _notify(self, channel: str, payload: str) -> None:
        self._notified_at[channel] = time.monotonic()
        for key in ((channel, None), (channel, payload)):
            for subscription in self._subscriptions.get(key, ()):
                subscription.notify()

    def _notify_all(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.notify()
