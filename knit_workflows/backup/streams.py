"""Chunks, read like a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress


class Stream:
    """Chunks, as a file that is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> memoryview:
        """Gives up to so many bytes, none at the end."""
        while not self._rest:
            chunk = b""
            with suppress(StopIteration):
                chunk = next(self._chunks)
                if not chunk:
                    continue
            if not chunk:
                break
            self._rest = memoryview(chunk)
        part, self._rest = self._rest[:size], self._rest[size:]
        return part
