"""Adapters between streams of bytes: prefetch, count, copy, gunzip, read as a file."""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress

from knit_workflows.archive.zstd import CODING, LARGEST_WINDOW_LOG, is_available, zstd

_PREFETCH = 8  # chunks; of at most 1 MiB each, so memory is bounded whatever the size
_GZIP_WINDOW = 31  # zlib's number for gzip framing with the largest window
_PIECE_BYTES = 32 << 10
_CHECK_INTERVAL = 0.1  # seconds until the thread notices that the reader has gone


class DamagedStream(ValueError):
    """The stream is not what it claims to be, or was altered."""


class StreamCut(DamagedStream):
    """The compressed stream ends early: what came out of it is valid but incomplete."""


class _End:
    """Marks the end of a stream in the queue, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Passes the chunks on, read by a thread a few chunks ahead of the consumer.

    An error of the source is raised here, after the chunks before it. Closing this iterator early
    ends the thread and leaves the source as it is.
    """
    pending: queue.Queue[bytes | _End] = queue.Queue(_PREFETCH)
    closed = threading.Event()

    def put(item: bytes | _End) -> bool:
        while not closed.is_set():
            with suppress(queue.Full):
                pending.put(item, timeout=_CHECK_INTERVAL)
                return True
        return False

    def fetch() -> None:
        try:
            for chunk in chunks:
                if not put(chunk):
                    return
        except BaseException as error:  # noqa: BLE001  raised again in the consumer
            put(_End(error))
        else:
            put(_End())

    thread = threading.Thread(target=fetch, name="knit-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = pending.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        closed.set()


def counted(
    chunks: Iterable[bytes], on_bytes: Callable[[int], None]
) -> Generator[bytes, None, None]:
    """Passes the chunks on, reporting the length of each."""
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def copied_to(
    write: Callable[[bytes], object], chunks: Iterable[bytes]
) -> Generator[bytes, None, None]:
    """Passes the chunks on, after writing each."""
    for chunk in chunks:
        write(chunk)
        yield chunk


def gunzipped(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Decompresses a gzip stream: all its members; zeros after the last are padding.

    Raises:
        DamagedStream: it is not gzip, its checksum is wrong, or garbage follows it.
        StreamCut: it ends within a member, or before the first.
    """
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    started = False
    try:
        for chunk in chunks:
            remainder = chunk
            while remainder:
                if decompressor.eof:
                    remainder = remainder.lstrip(b"\0")
                    if not remainder:
                        break
                    decompressor = zlib.decompressobj(_GZIP_WINDOW)
                started = True
                # Bounded: a few compressed bytes can stand for gigabytes of zeros.
                if out := decompressor.decompress(remainder, 1 << 20):
                    yield out
                remainder = decompressor.unconsumed_tail or decompressor.unused_data
            while not decompressor.eof and (out := decompressor.decompress(b"", 1 << 20)):
                yield out
    except zlib.error as cause:
        raise DamagedStream(f"the gzip stream is damaged: {cause}") from cause
    if not started or not decompressor.eof:
        raise StreamCut("the gzip stream ends too early")


def decoded(chunks: Iterable[bytes], coding: str) -> Iterable[bytes]:
    """Gives a body without its content coding: zstd, or none (empty).

    Raises:
        DamagedStream: it has another coding, for which nobody has asked; or as `unzstd`.
    """
    if not coding:
        return chunks
    if coding != CODING or not is_available():
        raise DamagedStream(f"it was sent with the content coding {coding[:80]!r}, unasked")
    return unzstd(chunks)


def unzstd(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Decompresses a zstd stream: one or more frames, in pieces of at most 1 MiB.

    Raises:
        DamagedStream: it is not zstd, a checksum is wrong, or a frame asks for a larger window
            than any decoder need have.
        StreamCut: it ends within a frame, or before the first.
    """
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW_LOG}
    frame = zstd.ZstdDecompressor(options=options)
    started = False
    try:
        for piece in _pieces(chunks):
            remainder: bytes | memoryview = piece
            while remainder or not (frame.needs_input or frame.eof):
                if frame.eof:
                    frame = zstd.ZstdDecompressor(options=options)
                started = True
                # Bounded: a few compressed bytes can stand for gigabytes of zeros.
                if out := frame.decompress(remainder, 1 << 20):
                    yield out
                remainder = frame.unused_data if frame.eof else b""
    except zstd.ZstdError as cause:
        raise DamagedStream(f"the zstd stream is damaged: {cause}") from cause
    if not started or not frame.eof:
        raise StreamCut("the zstd stream ends too early")


def _pieces(chunks: Iterable[bytes]) -> Generator[memoryview, None, None]:
    """Gives chunks in small pieces, since what follows a frame is copied at its end."""
    for chunk in chunks:
        whole = memoryview(chunk)
        for at in range(0, len(chunk), _PIECE_BYTES):
            yield whole[at : at + _PIECE_BYTES]


class ChunkReader:
    """Reads an iterator of chunks like a file, without copying."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._remainder = memoryview(b"")

    def read(self, size: int, /) -> memoryview:
        """Reads at most `size` bytes; empty at the end. A short read is not the end."""
        while not self._remainder:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._remainder = memoryview(chunk)
        head, self._remainder = self._remainder[:size], self._remainder[size:]
        return head
