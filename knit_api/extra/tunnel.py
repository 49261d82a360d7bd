"""A request that became a WebSocket: bytes in both directions, which knit does not look into."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import h11
from starlette.types import Scope

from knit_api.extra.header_rules import Header
from knit_api.extra.upstream import Upstream
from knit_api.server.streams import cancel_and_wait
from knit_api.server.upgrade import switch_protocol

_READ_BYTES: Final = 64 << 10


async def tunnel(
    scope: Scope,
    upstream: Upstream,
    response: h11.InformationalResponse,
    progress: Callable[[], None],
    stopping: asyncio.Event,
) -> None:
    """Passes the 101 on, then bytes, until one side or this process ends.

    `progress` is called whenever bytes moved.
    """
    headers: list[Header] = [
        (name, value)
        for name, value in response.headers
        if name not in (b"connection", b"upgrade", b"transfer-encoding", b"content-length")
    ]
    reader, writer = switch_protocol(
        scope, [*headers, (b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    )
    try:
        writer.write(upstream.remainder())
        await writer.drain()
        ends: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(_copy(reader, upstream.writer, progress)),
            asyncio.ensure_future(_copy(upstream.reader, writer, progress)),
            asyncio.ensure_future(stopping.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(*ends)
    finally:
        writer.close()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, progress: Callable[[], None]
) -> None:
    """Returns when the reader's side has ended, or either is gone."""
    try:
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
            progress()
    except OSError:
        pass
