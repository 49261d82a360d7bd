"""Lets a thread read a body from, or write it to, the socket itself: for bodies worth gigabytes.

Through uvicorn a byte of a body is copied some eight times, between two threads that wait for each
other. The heads of requests and responses, and the last chunk, still go through uvicorn and h11,
so that their state machines see a whole exchange: a request with an empty body, if you will.

* A chunked request body is held back until the app first receives; before that, `taken_body` may
  hand the connection to a thread. What is not taken goes the usual way.
* Once a response has started, `taken_response` hands the connection to a thread that writes chunks.

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

from knit_api.errors import ClientGone, HttpProblem
from knit_api.server.streams import PipeBroken
from knit_api.server.trailers import EXTENSION, TrailerConnection, TrailersProtocol
from knit_workflows.http1.body import BadBody, ChunkedBody
from knit_workflows.http1.buffered_reader import BufferedReader

WIRE_EXTENSION: Final = "knit.wire"
_READ_BYTES: Final = 256 << 10
_LAST_CHUNK: Final = b"0\r\n\r\n"
_FLUSH_SECONDS: Final = 0.01


class TakenBody:
    """A request's body in the hands of one thread; `break_off` may come from any other."""

    def __init__(self, connection: socket.socket, first: bytes) -> None:
        self._connection = connection
        self._inflow = BufferedReader(connection, first)
        self._body = ChunkedBody(self._inflow)
        self._broken = False

    @property
    def complete(self) -> bool:
        """Whether the body has come to its proper end."""
        return self._body.complete

    def get(self) -> bytes | memoryview:
        """Waits for the next piece, good until the next call; empty at the end.

        Raises HttpProblem (408) when the client sends nothing for too long, (400) when it sends
        something else than chunks, ClientGone when it leaves, PipeBroken after `break_off`.
        """
        try:
            return self._body.read(_READ_BYTES)
        except TimeoutError as error:
            raise HttpProblem(408, "the client sent nothing for too long", "push again") from error
        except BadBody as error:
            raise HttpProblem(400, f"bad request: {error}", "push again") from error
        except OSError as error:
            if self._broken:
                raise PipeBroken from error
            raise ClientGone("the client closed the connection within the body") from error

    def abandon(self) -> None:
        """Says that nothing will be read any more; a body that is not complete is dropped."""

    def break_off(self) -> None:
        """Makes the reader's next call, or the present one, raise; a complete body stays one."""
        if not self.complete:
            self._broken = True
            with suppress(OSError):  # the client may have gone already
                self._connection.shutdown(socket.SHUT_RD)

    def trailer(self, name: str) -> str | None:
        """Gives a trailer, which is there when the body is complete."""
        for line in self._body.trailers:
            key, _, value = line.partition(b":")
            if key.decode("latin-1").lower() == name:
                return value.strip().decode("latin-1")
        return None

    def rest(self) -> bytes:
        """Gives what came behind the body: the next request, perhaps."""
        return self._inflow.rest()


@contextmanager
def taken_body(scope: Scope, silence: float) -> Iterator[TakenBody | None]:
    """Holds the body of a request; it raises after `silence` seconds without a byte.

    None: the app is to receive it. A body that was not read to its end ends the connection, some
    time after the response.
    """
    wire = _wire_of(scope)
    connection = wire.take_body() if wire else None
    if wire is None or connection is None:
        yield None
        return
    connection.settimeout(silence)
    with connection:
        body = TakenBody(connection, wire.received())
        try:
            yield body
        finally:
            wire.give_back(body.rest() if body.complete else None)


@asynccontextmanager
async def taken_response(scope: Scope, silence: float) -> AsyncIterator[socket.socket | None]:
    """Holds the connection of a response that has started, for whole chunks and nothing else.

    None: the app is to send the body. The app sends the end (an empty body), if all went well.
    """
    wire = _wire_of(scope)
    connection = await wire.take_response() if wire and is_offered(scope) else None
    if connection is None:
        yield None
        return
    connection.settimeout(silence)
    with connection:
        yield connection


def is_offered(scope: Scope) -> bool:
    """Tells whether the response could be handed to a thread."""
    wire = _wire_of(scope)
    return wire is not None and wire.is_plain and EXTENSION in scope["extensions"]


def _wire_of(scope: Scope) -> WireProtocol | None:
    wire: WireProtocol | None = scope.get("extensions", {}).get(WIRE_EXTENSION)
    return wire


class HoldingConnection(TrailerConnection):
    """An h11 connection that keeps a chunked body to itself until it is released."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(max_incomplete_event_size)
        self.holding = False

    def next_event(self) -> Any:
        """Gives the next event, as the base class does; PAUSED while holding."""
        if self.holding:
            return h11.PAUSED
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.holding = any(name == b"transfer-encoding" for name, _ in event.headers)
        return event

    def take_received(self) -> bytes:
        """Gives what has come in and was not looked at yet, and forgets it."""
        received, _ = self.trailing_data
        self._receive_buffer._extract(len(received))
        return received


class WireProtocol(TrailersProtocol):
    """uvicorn's HTTP/1.1 protocol with trailers, and bodies for threads; the setting `http`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: HoldingConnection = HoldingConnection(self.conn._max_incomplete_event_size)
        self._deaf = False

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {WIRE_EXTENSION: self}
        scope["extensions"] = {**scope.get("extensions", {}), **extensions}
        await super()._serve(scope, self._releasing(receive), send)

    def _releasing(self, receive: Receive) -> Receive:
        async def receiving() -> Message:
            self._release()
            return await receive()

        return receiving

    def _release(self) -> None:
        """Lets h11 see what has been held back."""
        if self.conn.holding and not self._deaf:
            self.conn.holding = False
            self.handle_events()

    def data_received(self, data: bytes) -> None:
        """Takes what comes in; behind a body that was broken off, nothing can be understood."""
        if not self._deaf:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Takes the next request; what nobody read of this one is read now, to be thrown away."""
        super().on_response_complete()
        self._release()

    # --- for threads ----------------------------------------------------------------------------

    @property
    def is_plain(self) -> bool:
        """Whether what is on the socket is HTTP, and not TLS."""
        return self.transport.get_extra_info("sslcontext") is None

    def take_body(self) -> socket.socket | None:
        """Gives a socket to read the body from, behind `received`; None if it is not held back."""
        if not self.conn.holding or self._deaf:
            return None
        connection = self._socket()
        if connection is not None and self.cycle.waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(cast(bytes, self.conn.send(go_on)))
            self.cycle.waiting_for_100_continue = False
        return connection

    def received(self) -> bytes:
        """Gives what of the body, and behind it, has come already."""
        return self.conn.take_received()

    def give_back(self, rest: bytes | None) -> None:
        """Goes on behind the body with what came after it; None: it was not read to its end."""
        if rest is None:
            self._deaf = True
            return
        self.conn.receive_data(_LAST_CHUNK + rest)
        self._release()

    async def take_response(self) -> socket.socket | None:
        """Gives a socket to write chunks to, once the response's head has left."""
        connection = self._socket()
        # A head is hardly ever kept back, and nothing tells when the last of it has gone.
        while connection and self.transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(_FLUSH_SECONDS)
        return connection

    def _socket(self) -> socket.socket | None:
        if self.transport.is_closing() or not self.is_plain:
            return None
        ours = cast(Callable[[str], socket.socket | None], self.transport.get_extra_info)("socket")
        return ours.dup() if ours is not None else None
