"""Lets a thread read a body from, or write it to, the socket itself: for bodies worth gigabytes.

Through uvicorn each byte of a body is copied some eight times, between two threads that wait for
each other. The heads of requests and responses, and the last chunk, still go through uvicorn and
h11, so that their state machines see a complete exchange: one with an empty body, as it were.

* h11 pauses before a chunked request body until the app first receives; until then `detached_body`
  may detach the connection for a thread. A body that is not detached goes the usual way.
* Once a response has started, `detached_response` detaches the connection for a thread that
  writes chunks.

Both give None where there is no socket, such as in tests without a server, or behind TLS.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, cast

import h11
from starlette.types import Message, Receive, Scope, Send

from knit_api.errors import ClientDisconnected, HttpProblem
from knit_api.server.streams import BodyAborted
from knit_api.server.trailers import EXTENSION, TrailerConnection, TrailersProtocol
from knit_workflows.http1.body import BadBody, ChunkedBody
from knit_workflows.http1.buffered_reader import BufferedReader

PROTOCOL_EXTENSION: Final = "knit.protocol"
_READ_BYTES: Final = 256 << 10
_LAST_CHUNK: Final = b"0\r\n\r\n"
_FLUSH_SECONDS: Final = 0.01


class DetachedBody:
    """A BodySource: the body of a request, read from its socket by one thread."""

    def __init__(self, connection: socket.socket, first: bytes) -> None:
        self._connection = connection
        self._reader = BufferedReader(connection, first)
        self._body = ChunkedBody(self._reader)
        self._aborted = False

    @property
    def complete(self) -> bool:
        """Whether the body has come to its proper end."""
        return self._body.complete

    def get(self) -> bytes | memoryview:
        """See `BodySource`.

        Raises:
            HttpProblem: the client sent nothing for too long (408), or no chunks (400).
            ClientDisconnected: the client left.
            BodyAborted: `abort` was called.
        """
        try:
            return self._body.read(_READ_BYTES)
        except TimeoutError as error:
            raise HttpProblem(408, "the client sent nothing for too long", "push again") from error
        except BadBody as error:
            raise HttpProblem(400, f"bad request: {error}", "push again") from error
        except OSError as error:
            if self._aborted:
                raise BodyAborted from error
            raise ClientDisconnected("the client closed the connection within the body") from error

    def close(self) -> None:
        """See `BodySource`; the remainder of an incomplete body is dropped."""

    def abort(self) -> None:
        """See `BodySource`; may be called from any thread."""
        if not self.complete:
            self._aborted = True
            with suppress(OSError):  # the client may have gone already
                self._connection.shutdown(socket.SHUT_RD)

    def trailer(self, name: str) -> str | None:
        """Gives a trailer, which is there when the body is complete."""
        for line in self._body.trailers:
            key, _, value = line.partition(b":")
            if key.decode("latin-1").lower() == name:
                return value.strip().decode("latin-1")
        return None

    def remainder(self) -> bytes:
        """Gives what was received after the body: the beginning of the next request, perhaps."""
        return self._reader.remainder()


@contextmanager
def detached_body(scope: Scope, timeout: float) -> Iterator[DetachedBody | None]:
    """Detaches the body of a request; its `get` raises after `timeout` seconds without a byte.

    None: the app is to receive it. A body that is not read to its end ends the connection, some
    time after the response.
    """
    protocol = protocol_of(scope)
    connection = protocol.detach_body() if protocol else None
    if protocol is None or connection is None:
        yield None
        return
    connection.settimeout(timeout)
    with connection:
        body = DetachedBody(connection, protocol.received())
        try:
            yield body
        finally:
            protocol.reattach(body.remainder() if body.complete else None)


@asynccontextmanager
async def detached_response(scope: Scope, timeout: float) -> AsyncIterator[socket.socket | None]:
    """Detaches the connection of a response that has started, to write whole chunks to it.

    None: the app is to send the body, or the client has not taken the head in time. The app sends
    the end (an empty body), if all went well.
    """
    protocol = protocol_of(scope)
    connection = None
    if protocol is not None and can_detach(scope):
        connection = await protocol.detach_response(timeout)
    if connection is None:
        yield None
        return
    connection.settimeout(timeout)
    with connection:
        yield connection


def can_detach(scope: Scope) -> bool:
    """Says whether `detached_response` can detach the response of this request."""
    protocol = protocol_of(scope)
    return protocol is not None and protocol.is_plain and EXTENSION in scope["extensions"]


def peer_of(scope: Scope) -> str:
    """Gives the address at the other end of the connection: of the client, or the last proxy."""
    # The scope's client is what a proxy on this machine says that it is.
    protocol = protocol_of(scope)
    address, *_ = (protocol.client if protocol else None) or scope.get("client") or ("unknown",)
    return str(address)


def protocol_of(scope: Scope) -> DetachableProtocol | None:
    """Gives the server's side of the connection; None where there is no server, as in tests."""
    protocol: DetachableProtocol | None = scope.get("extensions", {}).get(PROTOCOL_EXTENSION)
    return protocol


class PausableConnection(TrailerConnection):
    """An h11 connection that pauses before a chunked body, until `paused` is unset."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(max_incomplete_event_size)
        self.paused = False

    def next_event(self) -> Any:
        """Gives the next event, as the base class does; h11.PAUSED while paused."""
        if self.paused:
            return h11.PAUSED
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.paused = any(name == b"transfer-encoding" for name, _ in event.headers)
        return event

    def drain_received(self) -> bytes:
        """Removes and gives what was received and is not parsed yet."""
        received, _ = self.trailing_data
        self._receive_buffer._extract(len(received))
        return received


class DetachableProtocol(TrailersProtocol):
    """uvicorn's HTTP/1.1 protocol with trailers and detachable bodies; its setting `http`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: PausableConnection = PausableConnection(self.conn._max_incomplete_event_size)
        self._input_ignored = False

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {PROTOCOL_EXTENSION: self}
        scope["extensions"] = {**scope.get("extensions", {}), **extensions}
        await super()._serve(scope, self._releasing(receive), send)

    def _releasing(self, receive: Receive) -> Receive:
        async def receiving() -> Message:
            self._release()
            return await receive()

        return receiving

    def _release(self) -> None:
        """Ends the pause of h11."""
        if self.conn.paused and not self._input_ignored:
            self.conn.paused = False
            self.handle_events()

    def data_received(self, data: bytes) -> None:
        """Takes what comes in; after a body that was not read to its end nothing can be parsed."""
        if not self._input_ignored:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Goes on to the next request; what nobody read of this one is read and discarded."""
        super().on_response_complete()
        self._release()

    def _should_upgrade(self) -> bool:
        """Leaves every upgrade to the app; uvicorn would log that it knows none."""
        return False

    # --- for threads ----------------------------------------------------------------------------

    @property
    def is_plain(self) -> bool:
        """Whether what is on the socket is HTTP, and not TLS."""
        return self.transport.get_extra_info("sslcontext") is None

    def detach_body(self) -> socket.socket | None:
        """Gives a socket to read the body from, after `received`; None unless h11 is paused."""
        if not self.conn.paused or self._input_ignored:
            return None
        connection = self._socket()
        if connection is not None and self.cycle.waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(cast(bytes, self.conn.send(go_on)))
            self.cycle.waiting_for_100_continue = False
        return connection

    def received(self) -> bytes:
        """Gives what of the body, and after it, has been received already."""
        return self.conn.drain_received()

    def reattach(self, remainder: bytes | None) -> None:
        """Goes on after the body with what followed it; None: it was not read to its end."""
        if remainder is None:
            self._input_ignored = True
            return
        self.conn.receive_data(_LAST_CHUNK + remainder)
        self._release()

    async def detach_response(self, within: float) -> socket.socket | None:
        """Gives a socket to write chunks to, once the head of the response is sent; None: late."""
        ends = asyncio.get_running_loop().time() + within
        # A head is hardly ever buffered, and there is no event for the end of it.
        while self.transport.get_write_buffer_size():
            if asyncio.get_running_loop().time() >= ends:
                return None
            await asyncio.sleep(_FLUSH_SECONDS)
        return self._socket()

    def _socket(self) -> socket.socket | None:
        if self.transport.is_closing() or not self.is_plain:
            return None
        ours = cast(Callable[[str], socket.socket | None], self.transport.get_extra_info)("socket")
        return ours.dup() if ours is not None else None
