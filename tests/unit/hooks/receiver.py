"""Receivers that misbehave: real sockets on loopback, byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Script = Callable[["Heard", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Heard:
    """One request as it arrived; header names are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes
    rest: asyncio.StreamReader
    """What follows on the connection."""


@dataclass
class Receiver:
    """A server that does one thing with every request."""

    port: int
    scheme: str
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    ended: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def receiving(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Receiver]:
    """Serves until the end of the block; connections that are still open are cut."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        receiver.connections += 1
        try:
            heard = await read_request(reader)
            receiver.heard.append(heard)
            await script(heard, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            receiver.ended += 1
            tasks.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    receiver = Receiver(port, "https" if tls else "http")
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in headers.items()}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Heard(head[0], headers, body, reader)


def saying(*parts: bytes, then: str = "close", pause: float = 0.0) -> Script:
    """Writes the parts, one after the other; then closes, resets, or hangs."""

    async def script(_: Heard, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        if then == "hang":
            await asyncio.Event().wait()
        if then == "reset":
            writer.transport.abort()

    return script


def repeating(head: bytes, part: bytes, pause: float = 0.0) -> Script:
    """Writes the head, then the part again and again, for ever."""

    async def script(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return script


def answer(
    status: int = 200, body: bytes = b"", content_type: str = "", headers: str = ""
) -> Script:
    """A complete answer."""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    head = f"HTTP/1.1 {status} Whatever\r\n{kind}{headers}Content-Length: {len(body)}\r\n\r\n"
    return saying(head.encode() + body)
