"""A real uvicorn on a free port, in the test's own loop, and raw HTTP to speak to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from knit_api.wire import WireProtocol


@asynccontextmanager
async def serving(app: ASGIApp, *, grace: int = 1) -> AsyncIterator[int]:
    """Serve an app as `python -m knit_api` does; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=WireProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def talk(port: int, request: bytes, *, half_close: bool = False) -> bytes:
    """Send raw bytes and give all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    if half_close:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


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
