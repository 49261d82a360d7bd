"""A real uvicorn on a free port, in the test's own loop, and raw HTTP to speak to it."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from knit_api.server.sockets import DetachableProtocol
from tests.waiting import PATIENCE, until

_UNDER_WAY: Counter[tuple[int, int]] = Counter()
"""How many calls of the app have not returned, by the ports of server and client."""


class _Server(uvicorn.Server):
    """Ends as soon as all has ended: uvicorn looks ten times a second only."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:
                    await asyncio.sleep(0.002)
        for task in state.tasks:
            task.cancel()


@asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    grace: int = 1,
    linger_timeout: float = DetachableProtocol.linger_timeout,
    head_timeout: float = DetachableProtocol.head_timeout,
) -> AsyncIterator[int]:
    """Serves an app as `python -m knit_api` does; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        connection = port, scope["client"][1]
        _UNDER_WAY[connection] += 1
        try:
            await app(scope, receive, send)
        finally:
            _UNDER_WAY[connection] -= 1

    limits = {"linger_timeout": linger_timeout, "head_timeout": head_timeout}
    config = uvicorn.Config(
        counted,
        http=type("Protocol", (DetachableProtocol,), limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield port
    finally:
        server.ending.set()
        await task


async def talk(
    port: int,
    request: bytes,
    *,
    half_close: bool = False,
    meanwhile: Callable[[int], None] = lambda count: None,
) -> bytes:
    """Sends raw bytes and gives all that comes back until the server closes.

    `meanwhile` is told again and again how many bytes have come.

    What the server does behind its last byte is done too: a client sees the end of an answer before
    the transfer behind it is closed, and a test that looks at once would race with that.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = port, writer.get_extra_info("sockname")[1]
    writer.write(request)
    await writer.drain()
    if half_close:
        writer.write_eof()
    answer = b""
    try:
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                while piece := await reader.read(1 << 16):
                    answer += piece
                    meanwhile(len(answer))
    finally:
        writer.close()
    await until(lambda: not _UNDER_WAY[connection])
    return answer


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def unchunked(body: bytes) -> tuple[bytes, dict[str, str], bool]:
    """Content, trailers, and whether the last chunk is there."""
    content = b""
    while body:
        head, found, rest = body.partition(b"\r\n")
        if not found:
            return content, {}, False
        size = int(head, 16)
        if size == 0:
            lines = rest.decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in lines if line)
            return content, {name.lower(): value for name, value in pairs}, True
        if len(rest) < size + 2:
            return content + rest[:size], {}, False
        content, body = content + rest[:size], rest[size + 2 :]
    return content, {}, False
