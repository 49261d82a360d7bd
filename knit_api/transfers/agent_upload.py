"""Sends a body to a transfer agent and hears its answer also while still sending.

httpx reads an answer only after it has sent the whole body: an agent's early `the disk is full`
would come after a terabyte, or, as it then closes the connection, not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import h11

CONNECT_SECONDS: Final = 10.0
STALL_SECONDS: Final = 60.0
"""An agent that takes nothing for so long is taken for dead."""
ANSWER_SECONDS: Final = 600.0
"""How long the answer may take: what was unpacked is first written to the disk."""
_READ_BYTES: Final = 64 << 10
_MOST_ANSWER_BYTES: Final = 64 << 10


class AgentLost(Exception):
    """The agent cannot be reached, or went away without an answer."""


async def send_body(
    url: str, headers: dict[str, str], pieces: AsyncIterator[bytes | memoryview]
) -> tuple[int, bytes]:
    """POST pieces as a chunked body; gives the answer's status and body.

    When `pieces` fails, or on cancellation, the connection is cut, so that the agent never takes
    the part for the whole. Raises AgentLost.
    """
    target = urlsplit(url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(target.hostname, target.port or 80)
    except OSError as error:  # a TimeoutError too
        raise AgentLost(str(error)) from error
    wire = h11.Connection(h11.CLIENT)
    answer = asyncio.ensure_future(_read_answer(wire, reader))
    try:
        request = h11.Request(
            method="POST",
            target=target.path or "/",
            headers=[("Host", target.netloc), ("Transfer-Encoding", "chunked"), *headers.items()],
        )
        writer.write(wire.send(request))
        await _send_pieces(wire, writer, pieces, answer)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except (OSError, h11.ProtocolError) as error:
        raise AgentLost(str(error) or type(error).__name__) from error
    finally:
        answer.cancel()
        writer.transport.abort()


async def _send_pieces(
    wire: h11.Connection,
    writer: asyncio.StreamWriter,
    pieces: AsyncIterator[bytes | memoryview],
    answer: asyncio.Future[tuple[int, bytes]],
) -> None:
    """Sends up to the end, or until there is an answer already or nobody takes any more."""
    async for piece in pieces:
        if answer.done() or not await _sent(writer, wire.send(h11.Data(data=bytes(piece)))):
            return
    if not answer.done():
        await _sent(writer, wire.send(h11.EndOfMessage()))


async def _sent(writer: asyncio.StreamWriter, data: bytes) -> bool:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return False  # it has closed; whether with an answer, the reading side knows
    return True


async def _read_answer(wire: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status, body = 0, b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            received = await reader.read(_READ_BYTES)
            if not received and not status:
                raise AgentLost("it closed the connection without an answer")
            wire.receive_data(received)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        if len(body) > _MOST_ANSWER_BYTES:
            return status, body
