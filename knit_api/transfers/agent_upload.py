"""Sends a body to a transfer agent, and reads the response while still sending.

httpx reads a response only after it has sent the whole body: an agent's early `the disk is full`
would be seen after a terabyte or, since the agent then closes the connection, not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import h11

_CONNECT_TIMEOUT: Final = 10.0
_WRITE_TIMEOUT: Final = 60.0
"""An agent that takes nothing for so long is considered dead."""
_RESPONSE_TIMEOUT: Final = 600.0
"""How long the response may take: before it, what was unpacked is written to the disk."""
_READ_BYTES: Final = 64 << 10
_MAX_RESPONSE_BYTES: Final = 64 << 10
NO_CONNECTION: Final = "it accepts no connection"
SILENT: Final = "it takes and sends nothing any more"
BROKEN_RESPONSE: Final = "it broke its response off, or something else answers in its place"


class AgentUnreachable(Exception):
    """The agent cannot be reached, or closed the connection without a response."""


async def send_body(
    url: str, headers: dict[str, str], chunks: AsyncIterator[bytes | memoryview]
) -> tuple[int, bytes]:
    """POSTs chunks as a chunked body; gives status and body of the response.

    When `chunks` fails, or on cancellation, the connection is aborted, so that the agent never
    takes the part for the whole.

    Raises:
        AgentUnreachable: there is no connection, or no response.
    """
    target = urlsplit(url)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(target.hostname, target.port or 80)
    except OSError as error:  # a TimeoutError too
        raise AgentUnreachable(NO_CONNECTION) from error
    connection = h11.Connection(h11.CLIENT)
    response = asyncio.ensure_future(_read_response(connection, reader))
    try:
        request = h11.Request(
            method="POST",
            target=target.path or "/",
            headers=[("Host", target.netloc), ("Transfer-Encoding", "chunked"), *headers.items()],
        )
        writer.write(connection.send(request))
        await _send_chunks(connection, writer, chunks, response)
        async with asyncio.timeout(_RESPONSE_TIMEOUT):
            return await response
    except TimeoutError as error:
        raise AgentUnreachable(SILENT) from error
    except OSError as error:
        raise AgentUnreachable("it closed the connection without a response") from error
    except h11.ProtocolError as error:
        raise AgentUnreachable(BROKEN_RESPONSE) from error
    finally:
        response.cancel()
        writer.transport.abort()


async def _send_chunks(
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    chunks: AsyncIterator[bytes | memoryview],
    response: asyncio.Future[tuple[int, bytes]],
) -> None:
    """Sends to the end, or until the agent has responded or closed the connection."""
    async for chunk in chunks:
        if response.done() or not await _sent(writer, connection.send(h11.Data(data=bytes(chunk)))):
            return
    if not response.done():
        await _sent(writer, connection.send(h11.EndOfMessage()))


async def _sent(writer: asyncio.StreamWriter, data: bytes) -> bool:
    try:
        async with asyncio.timeout(_WRITE_TIMEOUT):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return False  # it closed the connection; whether it responded, the reader knows
    return True


async def _read_response(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> tuple[int, bytes]:
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            received = await reader.read(_READ_BYTES)
            if not received and not status:
                raise AgentUnreachable("it closed the connection without a response")
            connection.receive_data(received)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        if len(body) > _MAX_RESPONSE_BYTES:
            return status, body
