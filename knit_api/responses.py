"""Responses: JSON as the contract writes it; streams that are complete or visibly aborted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, TypeVar

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from knit_api.server.streams import cancel_and_wait
from knit_api.server.trailers import ResponseAborted
from knit_workflows.metrics.instruments import TRANSFER_BYTES
from knit_workflows.wire.base import Wire

T = TypeVar("T")
Trailers = Callable[[], Mapping[str, str]]
"""Called once the body is complete."""

SENT: Final = TRANSFER_BYTES.labels("download")
"""Counts the bytes of streamed responses."""
_PIECE: Final = 64 << 10
"""Bytes that a client has the whole write time-out to take."""
_THREAD_ABOVE: Final = 200


def json_response(
    value: BaseModel | Wire | Sequence[Wire],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Gives the JSON of a wire type or of plain values, ended by a newline."""
    content = to_json(value) + b"\n"
    return Response(content, status, dict(headers or {}), media_type="application/json")


async def json_list_response(
    items: Sequence[T],
    to_wire: Callable[[T], Wire],
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Gives a list as JSON; a long one is rendered in a thread, so that others are served too."""

    def render() -> Response:
        return json_response([to_wire(item) for item in items], headers=headers)

    return await asyncio.to_thread(render) if len(items) > _THREAD_ABOVE else render()


class StreamedResponse(Response):
    """A streamed body, either of a known length or in HTTP chunks.

    When `chunks` fails, or is not of that length, the connection is closed before the end, so that
    the client cannot take the part for the whole. `resources` is closed at the end in any case:
    also when the client leaves, or takes nothing for `write_timeout` seconds. `is_transfer`: its
    bytes are counted as those of a download.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        resources: AsyncExitStack,
        media_type: str,
        *,
        write_timeout: float,
        trailers: Trailers | None = None,
        trailer_names: str = "",
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        is_transfer: bool = True,
    ) -> None:
        announced = {"Trailer": trailer_names} if trailers else {}
        super().__init__(None, 200, {**(headers or {}), **announced}, media_type)
        if length is None:
            del self.headers["content-length"]
        else:
            self.headers["content-length"] = str(length)
        self._remaining = length
        self._write_timeout = write_timeout
        self._chunks = chunks
        self._resources = resources
        self._trailers = trailers
        self._is_transfer = is_transfer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything; raises ResponseAborted if that is impossible."""
        async with self._resources:
            # Without either, only the end of the connection would mark it; see `framing`.
            assert self._remaining is not None or scope["http_version"] != "1.0"
            sending = asyncio.ensure_future(self._send_all(scope, send))
            leaving = asyncio.ensure_future(_until_gone(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                done = sending.done()
                await cancel_and_wait(sending, leaving)
                await self._chunks.aclose()
            if not done:
                raise ResponseAborted("the client left")
            sending.result()

    async def _send_in_time(self, send: Send, message: Message) -> None:
        """Sends a message; what was sent before it, the client may not have taken yet."""
        try:
            async with asyncio.timeout(self._write_timeout):
                await send(message)
        except TimeoutError as error:
            raise ResponseAborted("the client no longer takes anything") from error

    async def _send_all(self, scope: Scope, send: Send) -> None:
        with_trailers = self._trailers is not None and "http.response.trailers" in scope.get(
            "extensions", {}
        )
        if not with_trailers and "trailer" in self.headers:
            del self.headers["trailer"]
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await self._send_in_time(send, {**start, "trailers": True} if with_trailers else start)
        await self._send_chunks(scope, send)
        if self._remaining:
            raise ResponseAborted("the body shrank while it was sent")
        end: Message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send_in_time(send, end)
        if with_trailers and self._trailers is not None:
            pairs = [(k.encode(), v.encode()) for k, v in self._trailers().items()]
            await self._send_in_time(send, {"type": "http.response.trailers", "headers": pairs})

    async def _send_chunks(self, scope: Scope, send: Send) -> None:
        async for chunk in self._chunks:
            await self._send_chunk(send, chunk)

    async def _send_chunk(self, send: Send, chunk: bytes) -> None:
        if self._remaining is not None:
            self._remaining -= len(chunk)
            if self._remaining < 0:
                raise ResponseAborted("the body grew while it was sent")
        # In pieces, each of which has the time: a slow client takes something all the while.
        for start in range(0, len(chunk), _PIECE):
            piece = chunk[start : start + _PIECE]
            await self._send_in_time(
                send, {"type": "http.response.body", "body": piece, "more_body": True}
            )
        if self._is_transfer:
            SENT.inc(len(chunk))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
