"""Reads from a connection with few system calls, into one reused buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_BUFFER_BYTES = 256 << 10  # fits a processor's cache: data is still in it when it is written


class BufferedReader:
    """The receiving side of a connection, for one thread; the connection remains the caller's."""

    def __init__(self, connection: socket.socket, first: bytes = b"") -> None:
        """`first` was received before and is read first."""
        self._connection = connection
        self._buffer = bytearray(max(_BUFFER_BYTES, len(first)))
        self._view = memoryview(self._buffer)
        self._buffer[: len(first)] = first
        self._start, self._end = 0, len(first)

    def read1(self, size: int, /) -> memoryview:
        """Returns between 1 and `size` bytes, none at the end; the next call overwrites them."""
        if self._start == self._end:
            self._start, self._end = 0, self._connection.recv_into(self._buffer)
        end = min(self._end, self._start + size)
        data = self._view[self._start : end]
        self._start = end
        return data

    def readline(self, limit: int, /) -> bytes:
        """Returns a line with its newline; less if it exceeds `limit` bytes or the stream ends."""
        while True:
            end = min(self._end, self._start + limit)
            found = self._buffer.find(b"\n", self._start, end) + 1
            if found or end - self._start == limit or not self._more():
                break
        end = found or end
        line = bytes(self._view[self._start : end])
        self._start = end
        return line

    def remainder(self) -> bytes:
        """Returns what was received but not read."""
        return bytes(self._view[self._start : self._end])

    def close(self) -> None:
        """Discards what was received but not read."""
        self._start = self._end = 0

    def _more(self) -> bool:
        """Receives more after what is buffered; False at the end."""
        if self._end == len(self._buffer):
            kept = self.remainder()
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        received = self._connection.recv_into(self._view[self._end :])
        self._end += received
        return received > 0
