"""HTTP/1.1 trailers for uvicorn: it drops those of requests and cannot send those of responses.

Both directions are done at the one object between uvicorn and the wire, the `h11.Connection`, so
that none of uvicorn's own state machine is repeated here:

* the last event of a request carries its trailers; they are kept and reachable by the app with
  `request_trailers(scope)` once the body has been read to its end;
* the last event of a response gets the headers of the ASGI message `http.response.trailers`.

Besides, a response that is aborted on purpose (`ResponseAborted`) closes the connection quietly,
and a client is cut off after a while that goes on sending an unwanted body, or does not come to the
end of a request's head: uvicorn waits for the first request, and the rest of any, without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, Final, cast

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

EXTENSION: Final = "http.response.trailers"
REQUEST_EXTENSION: Final = "knit.request.trailers"


class ResponseAborted(Exception):
    """The response cannot be completed; the connection must end without its last chunk."""


def request_trailers(scope: Scope) -> Mapping[str, str]:
    """Gives the request's trailers, names in lower case; complete when the body is."""
    trailers: Mapping[str, str] = scope.get("extensions", {}).get(REQUEST_EXTENSION, {})
    return trailers


class TrailerConnection(h11.Connection):
    """An h11 connection that keeps request trailers and adds response trailers."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self.request_trailers: dict[str, str] = {}
        self.response_trailers: list[tuple[bytes, bytes]] = []

    def next_event(self) -> Any:
        """Gives the next event, as the base class does."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.request_trailers = {}
            self.response_trailers = []
        elif isinstance(event, h11.EndOfMessage):
            # The dictionary is filled, not replaced: the app may hold it since the request began.
            for name, value in (
                (n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers
            ):
                before = self.request_trailers.get(name)
                self.request_trailers[name] = value if before is None else f"{before}, {value}"
        return event

    def send(self, event: Any) -> Any:
        """Gives the bytes of an event, as the base class does."""
        if isinstance(event, h11.EndOfMessage) and self.response_trailers:
            event = h11.EndOfMessage(headers=self.response_trailers)
            self.response_trailers = []
        return super().send(event)


class TrailersProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with trailers; its setting `http`."""

    linger_timeout: ClassVar[float] = 5.0
    """Seconds that an unwanted body or an aborted response may drain before a reset."""
    head_timeout: ClassVar[float] = 30.0
    """Seconds that the head of a request may take: from its first byte, or of the connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self.conn = TrailerConnection(self.conn._max_incomplete_event_size)
        self._inner = cast(ASGIApp, self.app)
        self.app = self._serve
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection, and waits for its first request, but not for ever."""
        super().connection_made(transport)
        self._limit_head()

    def handle_events(self) -> None:
        """Handles what has come, as the base class does."""
        super().handle_events()
        self._limit_head()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # No other request of this connection can begin before this one's response is complete, so
        # both are this request's.
        cycle = self.cycle
        connection = cast(TrailerConnection, self.conn)
        extensions = {REQUEST_EXTENSION: connection.request_trailers}
        if scope["http_version"] != "1.0":  # HTTP/1.0 has no chunks, hence no trailers
            extensions[EXTENSION] = {}
        scope["extensions"] = {**scope.get("extensions", {}), **extensions}
        try:
            await self._inner(
                scope, receive, _without_defaults(_with_trailers(send, connection), cycle)
            )
        except ResponseAborted:
            self._abort(cycle)

    def on_response_complete(self) -> None:
        """Goes on to the next request; resets later if the body of this one does not end."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._reset_later()

    def send_400_response(self, msg: str) -> None:
        """Responds to what is not HTTP, as the base class does, but with a length."""
        body = f"{msg}\n".encode("ascii")
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"connection", b"close"),
        ]
        start = h11.Response(status_code=400, headers=headers, reason="Bad Request")
        for event in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels what was planned for the connection."""
        for timer in (self._timer, self._head_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _limit_head(self) -> None:
        """Sees to it that the time for a head is running while one is awaited, and only then.

        Whatever comes of it in the meantime gives it no more time. A connection that rests between
        two requests is uvicorn's to close.
        """
        rests = self.timeout_keep_alive_task is not None
        if self.conn.their_state is h11.IDLE and not rests:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_timeout, self.transport.abort)
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _abort(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # keeps uvicorn from logging an error
        self.transport.close()
        self._reset_later()  # else a client that reads nothing would keep the connection

    def _reset_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.linger_timeout, self._reset, self.cycle)

    def _reset(self, cycle: RequestResponseCycle) -> None:
        if self.transport.is_closing() or (
            self.cycle is cycle and self.conn.their_state is h11.SEND_BODY
        ):
            self.transport.abort()


def _without_defaults(send: Send, cycle: RequestResponseCycle) -> Send:
    """Leaves out the server's `Date` where the response has one, that of a service behind us."""

    async def sending(message: Message) -> None:
        own = {name for name, _ in message.get("headers", ())}
        cycle.default_headers = [one for one in cycle.default_headers if one[0] not in own]
        await send(message)

    return sending


def _with_trailers(send: Send, connection: TrailerConnection) -> Send:
    """Withholds the end of the body until the trailers are known, where they are announced."""
    announced = False

    async def sending(message: Message) -> None:
        nonlocal announced
        kind = message["type"]
        if kind == "http.response.start":
            announced = message.get("trailers", False)
        elif kind == "http.response.body" and announced:
            message = {**message, "more_body": True}
        elif kind == EXTENSION:
            connection.response_trailers += message["headers"]
            if message.get("more_trailers", False):
                return
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return sending
