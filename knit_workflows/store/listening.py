"""The one connection of a process that listens, shared by all who wait for a notification."""

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
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.store.connection import connect

_log = logging.getLogger(__name__)

_CHANNELS: Final = (names.OUTBOX_CHANNEL, names.RUN_CHANNEL, names.ATTENDED_CHANNEL)
_FIRST_DELAY_SECONDS: Final = 0.1
_LAST_DELAY_SECONDS: Final = 5.0


class Bell:
    """Rings for one waiter; rings that come while nobody waits are heard by the next wait."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once."""
        self._rung.set()

    async def wait(self, patience: timedelta) -> None:
        """Return when the bell has rung since the last wait, or after `patience`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience.total_seconds()):
                await self._rung.wait()
        self._rung.clear()


class Listener:
    """Listens from the first subscription on; survives lost connections.

    After reconnecting every bell rings: notifications of the meantime are gone.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._bells: dict[tuple[str, str | None], set[Bell]] = {}
        self._heard: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def subscribed(self, channel: str, payload: str | None = None) -> Iterator[Bell]:
        """Give a bell that rings on notifications of a channel (with this payload only)."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="knit-listener")
        bell = Bell()
        bells = self._bells.setdefault((channel, payload), set())
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                self._bells.pop((channel, payload), None)

    def silence(self, channel: str) -> timedelta:
        """Say for how long nothing has been heard on a channel, since we listen at the longest."""
        now = time.monotonic()
        return timedelta(seconds=now - self._heard.get(channel, now))

    async def aclose(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _listen(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                connection = await connect(self._url)
                async with connection:
                    for channel in _CHANNELS:
                        await connection.execute(
                            sql.SQL("LISTEN {}").format(sql.Identifier(channel))
                        )
                    self._heard = dict.fromkeys(_CHANNELS, time.monotonic())
                    self._ring_all()
                    delay = _FIRST_DELAY_SECONDS
                    async for notice in connection.notifies():
                        self._ring(notice.channel, notice.payload)
            except (StoreUnavailable, psycopg.Error) as cause:
                _log.warning(
                    "the listening connection is lost",
                    extra={"action": "listener_lost", "retry_in_s": delay, "cause": str(cause)},
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY_SECONDS)

    def _ring(self, channel: str, payload: str) -> None:
        self._heard[channel] = time.monotonic()
        for key in ((channel, None), (channel, payload)):
            for bell in self._bells.get(key, ()):
                bell.ring()

    def _ring_all(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()
