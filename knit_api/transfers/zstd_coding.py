"""The content coding zstd of archives, as far as the client's connection is slow enough for it.

A body is a sequence of frames (RFC 8878, 3.1), each with a checksum of its own. Compressing costs
more time than it saves where a network is fast; so each frame is compressed, or stored, by what the
last ones have shown: how many bytes compressing saves in a second of its work, and how many the
client takes in a second.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import closing
from typing import Final

from knit_api.server.trailers import ResponseAborted
from knit_workflows.archive import Span
from knit_workflows.archive.zstd import CODING, is_available, zstd

_PIECE_BYTES: Final = 512 << 10
_READ_BYTES: Final = 256 << 10
_LEVEL: Final = 1
_STORED_LEVEL: Final = -131_072
"""The quickest that there is: nothing is found to compress."""
_FORGOTTEN: Final = 0.8
"""What remains of the knowledge about a connection after one more piece."""
_BLOCKED: Final = 0.001
"""Seconds. What is sent in less went into a buffer: that tells nothing about the connection."""
_TRY_AFTER: Final = {True: 64, False: 16}
"""After so many pieces that were compressed, or were not, the other is tried with one."""


def is_wanted(accept_encoding: str) -> bool:
    """Says whether a client wants zstd, by its header `Accept-Encoding` (RFC 9110, 12.5.3).

    It must name it, and not prefer the archive as it is.
    """
    weights = dict(_weights(accept_encoding))
    weight = weights.get(CODING, 0.0)
    return weight > 0 and weight >= weights.get("identity", 0.0) and is_available()


def _weights(accept_encoding: str) -> Iterator[tuple[str, float]]:
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (word.strip() for word in part.split(";"))
        weight = 1.0
        for name, _, value in (one.partition("=") for one in parameters):
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        yield coding, weight


class AdaptiveCompressor:
    """Makes frames of what it is fed. Whoever sends a frame tells how long that took."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._pending = bytearray()
        self._sent_bytes = 0.0
        self._sent_seconds = 0.0
        self._saved_per_second = 0.0
        self._compresses = True
        self._in_a_row = 0

    def feed(self, data: bytes) -> bytes:
        """Takes some of the body; gives a frame once there is enough for one, else nothing."""
        self._pending += data
        return self.flush() if len(self._pending) >= _PIECE_BYTES else b""

    def flush(self) -> bytes:
        """Gives a frame with what has not been given yet, be it nothing."""
        piece = bytes(self._pending)
        self._pending.clear()
        self._choose()
        if not self._compresses:
            return _frame(piece, _STORED_LEVEL)
        begun = self._clock()
        frame = _frame(piece, _LEVEL)
        self._saved_per_second = (len(piece) - len(frame)) / max(self._clock() - begun, 1e-9)
        return frame

    def sent(self, size: int, seconds: float) -> None:
        """Takes note of what the client has taken, and how long it took."""
        if self._compresses and seconds < _BLOCKED and self._sent_bytes:
            return
        self._sent_bytes = self._sent_bytes * _FORGOTTEN + size
        self._sent_seconds = self._sent_seconds * _FORGOTTEN + seconds

    def _choose(self) -> None:
        compresses = self._pays()
        if compresses is self._compresses:
            self._in_a_row += 1
            if self._in_a_row < _TRY_AFTER[compresses]:
                return
            compresses = not compresses
        self._compresses, self._in_a_row = compresses, 0

    def _pays(self) -> bool:
        # Compressing takes c seconds and saves s bytes, which would take s / rate: c < s / rate.
        return self._sent_bytes <= self._saved_per_second * self._sent_seconds


def _frame(piece: bytes, level: int) -> bytes:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: level, parameter.checksum_flag: 1}
    return zstd.compress(piece, options=options)


def compressed_spans(
    spans: Generator[bytes | Span, None, None],
) -> Generator[bytes | Span, None, None]:
    """Gives an archive as frames, for a thread that sends each before it asks for the next."""
    frames = AdaptiveCompressor()
    with closing(spans):
        for item in spans:
            for data in (item,) if isinstance(item, bytes) else _read(item):
                if frame := frames.feed(data):
                    begun = time.perf_counter()
                    yield frame
                    frames.sent(len(frame), time.perf_counter() - begun)
        yield frames.flush()


def _read(span: Span) -> Iterator[bytes]:
    at, end = span.start, span.start + span.size
    while at < end:
        try:
            data = os.pread(span.descriptor, min(end - at, _READ_BYTES), at)
        except OSError as error:
            raise ResponseAborted(str(error)) from error
        if not data:
            raise ResponseAborted("a file became shorter while it was sent")
        at += len(data)
        yield data


async def compressed_chunks(
    chunks: AsyncIterator[bytes], threads: Executor
) -> AsyncGenerator[bytes, None]:
    """Gives an archive as frames, for a loop that sends each before it asks for the next."""
    loop = asyncio.get_running_loop()
    frames = AdaptiveCompressor()
    async for chunk in chunks:
        if frame := await loop.run_in_executor(threads, frames.feed, chunk):
            begun = time.perf_counter()
            yield frame
            frames.sent(len(frame), time.perf_counter() - begun)
    yield await loop.run_in_executor(threads, frames.flush)
