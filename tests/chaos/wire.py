"""A connection to Temporal that can be cut, and on which what a worker says takes a moment.

What a worker says is still on its way when its former words are in the history already, and is lost
when the wire is cut. So a worker can be killed just after an event: it has done its next step, and
nobody will hear of that.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

DELAY: Final = 0.05
"""Seconds. Long enough to look at a history between two words of a worker."""
_CHUNK: Final = 1 << 16


class Wire:
    """A TCP proxy on the loopback address; `cut` ends all that is connected, new ones may come."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def address(self) -> str:
        """Where to connect to."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def open(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)

    def cut(self) -> None:
        """Loses what is on its way."""
        for to_server in self._connections.values():
            to_server.transport.abort()

    async def aclose(self) -> None:
        """Ends everything."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections)

    async def _connect(
        self, from_worker: asyncio.StreamReader, to_worker: asyncio.StreamWriter
    ) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            from_server, to_server = await asyncio.open_connection(host, int(port))
        except OSError:
            to_worker.transport.abort()
            return
        carrying = asyncio.current_task()
        assert carrying is not None
        self._connections[carrying] = to_server
        ways = [
            asyncio.create_task(_carry(from_worker, to_server, DELAY)),
            asyncio.create_task(_carry(from_server, to_worker, 0)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._connections[carrying]
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.transport.abort()
            to_worker.transport.abort()


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while chunk := await source.read(_CHUNK):
            if delay:
                loop.call_later(delay, target.write, chunk)
            else:
                target.write(chunk)
