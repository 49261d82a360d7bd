"""Bodies of HTTP/1.1 messages as streams: reads a request's, writes a chunked response's."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_MOST_LINE_BYTES = 1024
_MOST_TRAILERS = 32
_READ_BYTES = 256 << 10
_SEPARATE_BYTES = 64 << 10


class BodyCut(ConnectionError):
    """The connection ended before the body did."""


class FileShrank(OSError):
    """A file ended before the bytes it was said to have."""


class BadBody(ValueError):
    """The request does not say properly where its body ends.

    Attributes:
        status: the HTTP status to answer.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Stream(Protocol):
    """A connection's receiving side; both methods give nothing only when it has ended."""

    def read1(self, size: int, /) -> bytes | memoryview: ...  # noqa: D102
    def readline(self, most: int, /) -> bytes: ...  # noqa: D102


def request_body(stream: Stream, header: Callable[[str], str | None]) -> LengthBody | ChunkedBody:
    """The body the headers announce. Raises BadBody if they announce none, or two."""
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
    """A body of a known length; `read` gives between 1 and `size` bytes, or none at the end.

    What it gives is good until the next call.
    """

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream = stream
        self._left = length

    def read(self, size: int, /) -> bytes | memoryview:
        """Raises BodyCut when the connection ends first."""
        if not self._left:
            return b""
        piece = self._stream.read1(min(size, self._left, _READ_BYTES))
        if not piece:
            raise BodyCut("the connection was cut within the body")
        self._left -= len(piece)
        return piece


class ChunkedBody:
    """A chunked body; `read` gives between 1 and `size` bytes, or none at the end.

    What it gives is good until the next call.

    Attributes:
        trailers: lines `name: value` behind the last chunk, complete when the body is.
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
        piece = self._stream.read1(min(size, self._left, _READ_BYTES))
        if not piece:
            raise BodyCut("the connection was cut within a chunk")
        self._left -= len(piece)
        return piece

    def _next_chunk(self) -> None:
        if self.complete:
            return
        # Only now: reading the line would overwrite the piece that was given last.
        if self._begun and self._line():
            raise BadBody("a chunk is longer than it says")
        self._begun = True
        digits = self._line().partition(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadBody("a chunk's size is not a number")
        self._left = int(digits, 16)
        if self._left:
            return
        for _ in range(_MOST_TRAILERS):
            line = self._line()
            if not line:
                self.complete = True
                return
            self.trailers.append(line)
        raise BadBody("too many trailers")

    def _line(self) -> bytes:
        line = self._stream.readline(_MOST_LINE_BYTES)
        if not line.endswith(b"\n"):
            if len(line) >= _MOST_LINE_BYTES:
                raise BadBody("a line between chunks is too long")
            raise BodyCut("the connection was cut between chunks")
        return line.rstrip(b"\r\n")


def send_chunk(connection: socket.socket, piece: bytes) -> None:
    """Sends one chunk. An empty piece sends nothing, since an empty chunk would end the body."""
    if not piece:
        return
    head = b"%x\r\n" % len(piece)
    if len(piece) < _SEPARATE_BYTES:
        connection.sendall(head + piece + b"\r\n")
        return
    connection.sendall(head)
    connection.sendall(piece)
    connection.sendall(b"\r\n")


def send_file_chunk(connection: socket.socket, descriptor: int, size: int, start: int = 0) -> None:
    """Sends so many bytes of a file, not 0, as one chunk, without reading them.

    Raises FileShrank, TimeoutError, OSError; what was sent is no whole chunk then.
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
        raise TimeoutError("nothing was taken for too long")


def send_last_chunk(connection: socket.socket) -> None:
    """Ends a chunked body. A body that breaks off without it is known to be incomplete."""
    connection.sendall(b"0\r\n\r\n")
