"""Bodies of HTTP/1.1 messages as streams: reads those of requests, writes chunked responses."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_MAX_LINE_BYTES = 1024
_MAX_TRAILERS = 32
_READ_BYTES = 256 << 10
_SEPARATE_BYTES = _PIECE = 64 << 10


class BodyCut(ConnectionError):
    """The connection was closed before the end of the body."""


class FileShrank(OSError):
    """A file became shorter while it was sent."""


class BadBody(ValueError):
    """The framing of the body is invalid.

    Attributes:
        status: the HTTP status to answer.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Stream(Protocol):
    """The receiving side of a connection; an empty result means that it was closed."""

    def read1(self, size: int, /) -> bytes | memoryview: ...  # noqa: D102
    def readline(self, limit: int, /) -> bytes: ...  # noqa: D102


def request_body(stream: Stream, header: Callable[[str], str | None]) -> LengthBody | ChunkedBody:
    """Gives the body that the headers declare; raises BadBody if they declare none, or two."""
    length = header("Content-Length")
    encoding = header("Transfer-Encoding")
    if encoding is not None:
        if length is not None or encoding.strip().lower() != "chunked":
            raise BadBody("the body must be either chunked or have a length")
        return ChunkedBody(stream)
    if length is None:
        raise BadBody("the body needs a Content-Length or must be chunked", 411)
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise BadBody("the Content-Length is not a number")
    return LengthBody(stream, int(length))


class LengthBody:
    """A body of a known length; `read` returns between 1 and `size` bytes, or none at the end.

    The result is valid until the next call.
    """

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream = stream
        self._left = length

    def read(self, size: int, /) -> bytes | memoryview:
        """Raises BodyCut when the connection ends first."""
        if not self._left:
            return b""
        data = self._stream.read1(min(size, self._left, _READ_BYTES))
        if not data:
            raise BodyCut("the connection was cut within the body")
        self._left -= len(data)
        return data


class ChunkedBody:
    """A chunked body; `read` returns between 1 and `size` bytes, or none at the end.

    The result is valid until the next call.

    Attributes:
        trailers: lines `name: value` after the last chunk, complete when the body is.
        complete: whether the body has been read to its proper end.
    """

    def __init__(self, stream: Stream) -> None:
        self.trailers: list[bytes] = []
        self._stream = stream
        self._left = 0
        self._begun = False
        self.complete = False

    def read(self, size: int, /) -> bytes | memoryview:
        """Raises BodyCut when the connection ends first, BadBody when the chunks are malformed."""
        if not self._left:
            self._next_chunk()
        if self.complete:
            return b""
        data = self._stream.read1(min(size, self._left, _READ_BYTES))
        if not data:
            raise BodyCut("the connection was cut within a chunk")
        self._left -= len(data)
        return data

    def _next_chunk(self) -> None:
        if self.complete:
            return
        # Not earlier: reading the line would overwrite the data returned last.
        if self._begun and self._line():
            raise BadBody("a chunk is longer than it says")
        self._begun = True
        digits = self._line().partition(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadBody("a chunk's size is not a number")
        self._left = int(digits, 16)
        if self._left:
            return
        for _ in range(_MAX_TRAILERS):
            line = self._line()
            if not line:
                self.complete = True
                return
            self.trailers.append(line)
        raise BadBody("too many trailers")

    def _line(self) -> bytes:
        line = self._stream.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            if len(line) >= _MAX_LINE_BYTES:
                raise BadBody("a line between chunks is too long")
            raise BodyCut("the connection was cut between chunks")
        return line.rstrip(b"\r\n")


def send_chunk(connection: socket.socket, data: bytes) -> None:
    """Sends one chunk; nothing if it is empty, since an empty chunk would end the body."""
    if not data:
        return
    head = b"%x\r\n" % len(data)
    if len(data) < _SEPARATE_BYTES:
        connection.sendall(head + data + b"\r\n")
        return
    connection.sendall(head)
    # A socket's time-out is for all of what `sendall` is given, however much that is.
    view = memoryview(data)
    for start in range(0, len(data), _PIECE):
        connection.sendall(view[start : start + _PIECE])
    connection.sendall(b"\r\n")


def send_file_chunk(connection: socket.socket, descriptor: int, size: int, start: int = 0) -> None:
    """Sends `size` bytes (not 0) of a file as one chunk, by `sendfile`.

    Raises:
        FileShrank, TimeoutError, OSError: the chunk that was sent is incomplete.
    """
    connection.sendall(b"%x\r\n" % size)
    done = 0
    while done < size:
        try:
            sent = os.sendfile(connection.fileno(), descriptor, start + done, size - done)
        except BlockingIOError:
            _wait_for_room(connection)
            continue
        if not sent:
            raise FileShrank("a file became shorter while it was sent")
        done += sent
    connection.sendall(b"\r\n")


def _wait_for_room(connection: socket.socket) -> None:
    seconds = connection.gettimeout()
    room = select.poll()
    room.register(connection, select.POLLOUT)
    if not room.poll(None if seconds is None else seconds * 1000):
        raise TimeoutError("the client received nothing for too long")


def send_last_chunk(connection: socket.socket) -> None:
    """Ends a chunked body; without it the client knows that the body is incomplete."""
    connection.sendall(b"0\r\n\r\n")
