"""An archive that goes from files to the client's connection without passing through Python."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack, closing, suppress
from itertools import chain

from starlette.types import Scope, Send

from knit_api.responses import SENT, StreamedResponse
from knit_api.server.sockets import detached_response
from knit_api.server.streams import finish_despite_cancel
from knit_api.server.trailers import ResponseAborted
from knit_workflows.archive import Span
from knit_workflows.http1.body import send_chunk, send_file_chunk


class DirectArchiveResponse(StreamedResponse):
    """An archive that a thread writes to the detached connection; `can_detach` must hold.

    `first` is sent before `spans`, of which it was the first item.
    """

    def __init__(
        self,
        first: bytes | Span,
        spans: Generator[bytes | Span, None, None],
        resources: AsyncExitStack,
        media_type: str,
        threads: Executor,
        *,
        write_timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            _nothing(), resources, media_type, write_timeout=write_timeout, headers=headers
        )
        self._first = first
        self._spans = spans
        self._threads = threads

    async def _send_chunks(self, scope: Scope, send: Send) -> None:
        async with detached_response(scope, self._write_timeout) as connection:
            if connection is None:
                raise ResponseAborted("the client left")
            loop = asyncio.get_running_loop()
            writing = loop.run_in_executor(self._threads, self._write, connection)
            try:
                await asyncio.wait({writing})
                writing.result()
            except BaseException:
                with suppress(OSError):  # wakes the thread, should it still be writing
                    connection.shutdown(socket.SHUT_RDWR)
                await finish_despite_cancel(asyncio.wait({writing}))
                raise

    def _write(self, connection: socket.socket) -> None:
        with closing(self._spans):
            for item in chain((self._first,), self._spans):
                try:
                    _write_item(connection, item)
                except OSError as error:  # those of the folder are domain errors by now
                    raise ResponseAborted(str(error)) from error


def _write_item(connection: socket.socket, item: bytes | Span) -> None:
    if isinstance(item, bytes):
        send_chunk(connection, item)
        SENT.inc(len(item))
    else:
        send_file_chunk(connection, item.descriptor, item.size, item.start)
        SENT.inc(item.size)


async def _nothing() -> AsyncGenerator[bytes, None]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk
