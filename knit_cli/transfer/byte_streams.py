"""Plumbing between streams of bytes: fetch ahead, gzip both ways, count, read as a file."""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress

_PREFETCH = (
    8  # pieces; with pieces of at most 1 MiB a transfer holds some 10 MiB, whatever its size
)
_GZIP_WINDOW = 31  # zlib's way to say: gzip framing, largest window
_FASTEST = 1  # the link or the disk, not the compressor, should be the slowest part
_CHECK_INTERVAL = 0.1  # seconds until the thread notices that nobody reads any more


class DamagedStream(ValueError):
    """A stream is not what it was when it was made, or never was what it is said to be."""


class StreamCut(DamagedStream):
    """A compressed stream ends before its own end: what came of it is fine, and not all."""


class _End:
    """Marks the end of a stream in the queue, with what it ended by."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Gives the same pieces, fetched by a thread a few pieces ahead of the reader.

    An error in the source is raised here, after the pieces before it. When this iterator is closed
    early, the source is left where it stands and the thread ends.
    """
    pending: queue.Queue[bytes | _End] = queue.Queue(_PREFETCH)
    abandoned = threading.Event()

    def put(item: bytes | _End) -> bool:
        while not abandoned.is_set():
            with suppress(queue.Full):
                pending.put(item, timeout=_CHECK_INTERVAL)
                return True
        return False

    def fetch() -> None:
        try:
            for chunk in chunks:
                if not put(chunk):
                    return
        except BaseException as error:  # noqa: BLE001  carried over to the reader, whatever it is
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
        abandoned.set()


def counted(
    chunks: Iterable[bytes], on_bytes: Callable[[int], None]
) -> Generator[bytes, None, None]:
    """Gives the same pieces, reporting the length of each as it is passed on."""
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Gives the pieces as one gzip stream."""
    compressor = zlib.compressobj(_FASTEST, wbits=_GZIP_WINDOW)
    for chunk in chunks:
        if out := compressor.compress(chunk):
            yield out
    yield compressor.flush()


def gzipped_to(
    write: Callable[[bytes], object], chunks: Iterable[bytes]
) -> Generator[bytes, None, None]:
    """Gives the pieces as they are, and writes them as one gzip stream."""
    compressor = zlib.compressobj(_FASTEST, wbits=_GZIP_WINDOW)
    for chunk in chunks:
        if out := compressor.compress(chunk):
            write(out)
        yield chunk
    write(compressor.flush())


def copied_to(
    write: Callable[[bytes], object], chunks: Iterable[bytes]
) -> Generator[bytes, None, None]:
    """Gives the pieces, and writes each before it is passed on."""
    for chunk in chunks:
        write(chunk)
        yield chunk


def gunzipped(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Gives the content of a gzip stream: of all its members, zeros behind which are padding.

    Raises:
        DamagedStream: it is not gzip, its checksum is wrong, or something else follows it.
        StreamCut: it ends within a member, or before the first.
    """
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    started = False
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                if decompressor.eof:
                    rest = rest.lstrip(b"\0")
                    if not rest:
                        break
                    decompressor = zlib.decompressobj(_GZIP_WINDOW)
                started = True
                # Bounded: a few compressed bytes can stand for gigabytes of zeros.
                if out := decompressor.decompress(rest, 1 << 20):
                    yield out
                rest = decompressor.unconsumed_tail or decompressor.unused_data
            while not decompressor.eof and (out := decompressor.decompress(b"", 1 << 20)):
                yield out
    except zlib.error as cause:
        raise DamagedStream(f"the gzip stream is damaged: {cause}") from cause
    if not started or not decompressor.eof:
        raise StreamCut("the gzip stream ends too early")


class ChunkReader:
    """Reads pieces of bytes as one stream, without copying them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> memoryview:
        """Gives up to so many bytes; empty at the end. A short answer is not the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest = memoryview(chunk)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
