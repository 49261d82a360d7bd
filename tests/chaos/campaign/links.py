"""TCP proxies between the processes of one site, on which the network has faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

_CHUNK: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: what is closed sends RST."""
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opener: TypeAlias = Callable[[], Awaitable[Streams]]


def to_port(port: int) -> Opener:
    """Gives what connects to a port of this machine."""
    return lambda: asyncio.open_connection("127.0.0.1", port)


def to_socket(path: str) -> Opener:
    """Gives what connects to a Unix socket."""
    return lambda: asyncio.open_unix_connection(path)


class Link:
    """A proxy on a port that stays; without faults it passes everything on at once."""

    def __init__(self, name: str, connect: Opener) -> None:
        self.name = name
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flows = asyncio.Event()
        self._flows.set()
        self.refuses = False
        """New connections are reset."""
        self.swallows = False
        """What is said goes nowhere: half-open connections."""
        self.delay = 0.0
        """Seconds by which each chunk is late."""

    @property
    def port(self) -> int:
        """The port of the loopback address on which it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    async def open(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def aclose(self) -> None:
        """Ends everything."""
        assert self._server is not None
        self._server.close()
        self.refuses = True
        self.let_go()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    def cut(self, *, reset: bool = False) -> None:
        """Loses all connections, and what is on its way."""
        for writers in list(self._open.values()):
            for writer in writers:
                if reset:
                    raw = writer.get_extra_info("socket")
                    with suppress(OSError):  # it is closed already
                        if raw.family != socket.AF_UNIX:
                            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    def hold(self) -> None:
        """Passes nothing on, and loses nothing, until `let_go`."""
        self._flows.clear()

    def let_go(self) -> None:
        """Passes on again."""
        self._flows.set()

    async def _serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = [to_near]
        try:
            if self.refuses:
                self.cut_one(to_near)
                return
            await self._flows.wait()
            far, to_far = await self._connect()
            self._open[task].append(to_far)
            await self._carry_both(near, to_near, far, to_far)
        except OSError:
            self.cut_one(to_near)
        finally:
            for writer in self._open.pop(task):
                writer.close()

    @staticmethod
    def cut_one(writer: asyncio.StreamWriter) -> None:
        """Resets one connection."""
        raw = writer.get_extra_info("socket")
        with suppress(OSError):  # it is closed already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def _carry_both(
        self,
        near: asyncio.StreamReader,
        to_near: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        to_far: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.create_task(self._carry(near, to_far)),
            asyncio.create_task(self._carry(far, to_near)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(_CHUNK):
                await self._flows.wait()
                if self.swallows:
                    continue
                if self.delay:
                    await asyncio.sleep(self.delay)
                target.write(chunk)
                await target.drain()
            await self._flows.wait()
