"""What comes in on a connection, read with few system calls into one buffer that is used again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_BUFFER_BYTES = 256 << 10  # fits a processor's cache: what is read is still there when written


class BufferedReader:
    """The receiving side of a connection, for one thread; the connection stays the caller's."""

    def __init__(self, connection: socket.socket, first: bytes = b"") -> None:
        """`first` has been received before and comes first; at most the buffer's 256 KiB."""
        self._connection = connection
        self._buffer = bytearray(max(_BUFFER_BYTES, len(first)))
        self._view = memoryview(self._buffer)
        self._buffer[: len(first)] = first
        self._start, self._end = 0, len(first)

    def read1(self, size: int, /) -> memoryview:
        """Between 1 and `size` bytes, or none at the end; they are overwritten by the next call."""
        if self._start == self._end:
            self._start, self._end = 0, self._connection.recv_into(self._buffer)
        end = min(self._end, self._start + size)
        piece = self._view[self._start : end]
        self._start = end
        return piece

    def readline(self, most: int, /) -> bytes:
        """Up to and with the next newline, or `most` bytes, or what there is before the end."""
        while True:
            end = min(self._end, self._start + most)
            found = self._buffer.find(b"\n", self._start, end) + 1
            if found or end - self._start == most or not self._more():
                break
        end = found or end
        line = bytes(self._view[self._start : end])
        self._start = end
        return line

    def rest(self) -> bytes:
        """What was received and not read."""
        return bytes(self._view[self._start : self._end])

    def close(self) -> None:
        """Forgets what is left."""
        self._start = self._end = 0

    def _more(self) -> bool:
        """Receives behind what is there; False at the end."""
        if self._end == len(self._buffer):
            kept = self.rest()
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        received = self._connection.recv_into(self._view[self._end :])
        self._end += received
        return received > 0
