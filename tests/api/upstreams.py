"""Services behind extra APIs: real sockets that send what a test tells them to, byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Received:
    """A request as it came over the wire; `complete` once it has come to its proper end."""

    head: bytes = b""
    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        [value] = self.all(name)
        return value


@dataclass
class Service:
    """What a service has seen. `ended` counts connections whose other side has closed them."""

    port: int
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    ended: int = 0

    @property
    def last(self) -> Received:
        return self.requests[-1]


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def sends(*parts: bytes, pause: float = 0.01) -> Respond:
    """Sends the parts, with a pause after each, so that each is likely to be a packet."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return respond


@asynccontextmanager
async def service(
    respond: Respond,
    *,
    early: bool = False,
    closes: bool = True,
    keeps: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Service]:
    """Serves on a free port.

    `early`: responds once it has the head, and takes no body. Unless it `closes`, the connection
    stays open after the response until the other side ends it; if it `keeps` it, one request after
    the other is served.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        received = Received()
        found.connections += 1
        found.requests.append(received)
        try:
            with suppress(ConnectionError, asyncio.CancelledError, h11.RemoteProtocolError):
                await _read(reader, received, head_only=early)
                while keeps and received.head and not writer.is_closing():
                    await respond(received, writer)
                    received = Received()
                    await _read(reader, received, head_only=early)
                    if received.head:
                        found.requests.append(received)
                if received.head and not keeps:
                    await respond(received, writer)
                    if closes:
                        return
                while await reader.read(1 << 16):
                    pass
        finally:
            found.ended += 1
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    found = Service(server.sockets[0].getsockname()[1])
    try:
        yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _read(reader: asyncio.StreamReader, received: Received, *, head_only: bool) -> None:
    connection = h11.Connection(h11.SERVER, 1 << 20)
    raw = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(1 << 16)
            raw += data if not received.head else b""
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            received.head = raw.partition(b"\r\n\r\n")[0]
            received.method, received.target = event.method.decode(), event.target.decode("latin-1")
            received.headers = _decoded(event.headers)
            if head_only:
                return
        elif isinstance(event, h11.Data):
            received.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            received.trailers = _decoded(event.headers)
            received.complete = True
            return
        else:  # closed early
            return


def _decoded(headers: h11.Headers | list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
