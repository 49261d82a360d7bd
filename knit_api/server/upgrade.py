"""Takes a connection away from uvicorn, for a request that changes to another protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, cast

import h11
from starlette.types import Scope

from knit_api.errors import ClientDisconnected, HttpProblem
from knit_api.server.sockets import protocol_of

_BUFFERED_BYTES: Final = 64 << 10


def switch_protocol(
    scope: Scope, headers: Sequence[tuple[bytes, bytes]]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends `101 Switching Protocols`; from then on the connection is the caller's to close.

    Raises:
        HttpProblem: there is no connection, such as in tests without a server (501).
        ClientDisconnected: the client has left.
    """
    protocol = protocol_of(scope)
    if protocol is None:
        raise HttpProblem(501, "no upgrade is possible here", "connect to knit's server itself")
    transport = protocol.transport
    if transport.is_closing():
        raise ClientDisconnected("the client left")
    event = h11.InformationalResponse(
        status_code=101, headers=list(headers), reason=b"Switching Protocols"
    )
    head = cast(bytes, protocol.conn.send(event))
    received, _ = protocol.conn.trailing_data
    reader = asyncio.StreamReader(limit=_BUFFERED_BYTES, loop=protocol.loop)
    successor = asyncio.StreamReaderProtocol(reader, loop=protocol.loop)
    # As uvicorn itself does where it hands a connection over to a library for WebSockets.
    protocol.connections.discard(protocol)
    protocol.cycle.disconnected = True
    transport.set_protocol(successor)
    successor.connection_made(transport)
    reader.feed_data(received)
    transport.resume_reading()
    transport.write(head)
    return reader, asyncio.StreamWriter(transport, successor, reader, protocol.loop)
