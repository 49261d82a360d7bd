"""An httpx transport for archives and logs, with a connection each; others use httpx's own.

httpx's transport copies each byte of a body several times and reads 64 KiB at a time, which for a
gigabyte costs more than packing it, and it drops trailers. This one sends and receives such bodies
with the standard library and our own `http1`.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import httpx

from knit_workflows.http1.body import (
    BadBody,
    ChunkedBody,
    LengthBody,
    Stream,
    send_chunk,
    send_last_chunk,
)

TRAILERS = "knit.trailers"
"""The extension of a response with its trailers by lower-case name, filled once it was read."""

_READ_BYTES = 120 * 1024  # from 128 KiB on, malloc gets each buffer from the kernel
_ARCHIVES = ("application/x-tar", "application/tar+gzip")
_LOG = "application/octet-stream"
# Routers forget idle connections, and a dead peer looks like a silent one: let the kernel probe.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))


class ArchiveTransport(httpx.BaseTransport):
    """Handles requests that send or receive an archive or log, over a new HTTP/1.1 connection each.

    Raises the errors of httpx's own transport. An error raised by the body of a request aborts the
    connection and propagates.

    Args:
        default: handles all other requests.
        trust: the TLS context.
    """

    def __init__(self, default: httpx.BaseTransport, trust: ssl.SSLContext) -> None:
        self._default = default
        self._trust = trust

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request; returns when the head of the response has arrived."""
        if not _is_ours(request):
            return self._default.handle_request(request)
        connection = self._connection(request)
        try:
            with suppress(httpx.WriteError):  # it may have responded before it closed
                _send(connection, request)
            with _network_errors(httpx.ReadError, httpx.ReadTimeout):
                _wait_at_most(connection, request, "read")
                reading = connection.sock  # which the connection forgets if the server closes it
                response = connection.getresponse()
            headers = [
                (name.encode(), text.encode("latin-1")) for name, text in response.getheaders()
            ]
            content = _Content(connection, reading, response)
            return httpx.Response(
                response.status,
                headers=headers,
                stream=content,
                extensions={TRAILERS: content.trailers},
            )
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Closes the connections of other requests."""
        self._default.close()

    def _connection(self, request: httpx.Request) -> http.client.HTTPConnection:
        host, seconds = request.url.host, _seconds(request, "connect")
        connection = (
            http.client.HTTPSConnection(
                host, request.url.port or 443, timeout=seconds, context=self._trust
            )
            if request.url.scheme == "https"
            else http.client.HTTPConnection(host, request.url.port or 80, timeout=seconds)
        )
        with _network_errors(httpx.ConnectError, httpx.ConnectTimeout):
            connection.connect()
            _keep_alive(connection.sock)
        return connection


def _is_ours(request: httpx.Request) -> bool:
    sent: str = request.headers.get("Content-Type", "")
    wanted: str = request.headers.get("Accept", "")
    return sent.startswith(_ARCHIVES) or wanted.startswith((*_ARCHIVES, _LOG))


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # some have other names on macOS and Windows
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: http.client.HTTPConnection, request: httpx.Request) -> None:
    with _network_errors(httpx.WriteError, httpx.WriteTimeout):
        _wait_at_most(connection, request, "write")
        target = request.url.raw_path.decode("ascii")
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.raw:
            connection.putheader(name.decode("ascii"), value)
        connection.endheaders()
    if request.headers.get("Transfer-Encoding") == "chunked":
        assert isinstance(request.stream, Iterable)
        _send_chunks(connection.sock, request.stream)


def _send_chunks(connection: socket.socket, chunks: Iterable[bytes]) -> None:
    """Sends a chunked body, to its end or until a response arrives early."""
    early = _early_response_poll(connection)
    for chunk in chunks:
        with _network_errors(httpx.WriteError, httpx.WriteTimeout):
            if early.poll(0):
                return
            send_chunk(connection, chunk)
    with _network_errors(httpx.WriteError, httpx.WriteTimeout):
        send_last_chunk(connection)


def _early_response_poll(connection: socket.socket) -> select.poll:
    """Polls for an early response; under TLS never, because incoming bytes need not be one."""
    detector = select.poll()
    if not isinstance(connection, ssl.SSLSocket):
        detector.register(connection, select.POLLIN)
    return detector


class _Body(Protocol):
    def read(self, size: int, /) -> bytes | memoryview: ...


class _UntilClosed:
    """A body without framing: everything until the connection is closed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes | memoryview:
        return self._stream.read1(size)


def _body_of(response: http.client.HTTPResponse) -> _Body:
    """Gives a reader for the body by its framing; raises HTTPException for an unknown coding.

    `HTTPResponse.read1` would accept a body that ends before its announced length.
    """
    assert response.fp is not None
    encoding = response.getheader("Transfer-Encoding")
    if response.length is not None:  # 0 if there is no body
        return LengthBody(response.fp, response.length)
    if encoding is None:
        return _UntilClosed(response.fp)
    if not response.chunked:
        raise http.client.HTTPException(f"the response is encoded as {encoding[:80]!r}")
    return ChunkedBody(response.fp)


class _Content(httpx.SyncByteStream):
    """The body of a response, iterable once; closes the connection.

    Attributes:
        trailers: by lower-case name, filled once the body was read.
    """

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        reading: socket.socket,
        response: http.client.HTTPResponse,
    ) -> None:
        self._connection = connection
        self._socket = reading
        self._answer = response
        with _network_errors(httpx.ReadError, httpx.ReadTimeout):
            self._body = _body_of(response)
        self.trailers: dict[str, str] = {}

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with _network_errors(httpx.ReadError, httpx.ReadTimeout):
                chunk = self._body.read(_READ_BYTES)
            if not chunk:
                break
            yield bytes(chunk)
        if isinstance(self._body, ChunkedBody):
            for line in self._body.trailers:
                name, _, value = line.decode("latin-1").partition(":")
                self.trailers[name.strip().lower()] = value.strip()

    def close(self) -> None:
        # A thread may be waiting for data; it holds a lock that closing the reader would wait for.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._answer.close()
        self._connection.close()


def _seconds(request: httpx.Request, what: str) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get(what)


def _wait_at_most(
    connection: http.client.HTTPConnection, request: httpx.Request, what: str
) -> None:
    connection.sock.settimeout(_seconds(request, what))


@contextmanager
def _network_errors(
    broken: type[httpx.NetworkError], late: type[httpx.TimeoutException]
) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error
    except (http.client.HTTPException, BadBody) as error:
        raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
