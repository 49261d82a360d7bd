"""Pieces by their content: each is stored once, under the SHA-256 of what it holds."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from knit_workflows.archive.zstd import is_available, zstd
from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.problems import BackupProblem, Damaged

PIECE: Final = 16 << 20
"""Bytes of a stream in one piece; only its last one is smaller."""
FOLDER: Final = "blobs/"
_ENDING: Final = ".zst"
_LEVEL: Final = 1
"""With 3, zstd's default, it takes three times as long, for a few per cent."""
_THREADS: Final = min(4, 2 * (os.cpu_count() or 1))
"""More than cores, since some wait for the destination."""
_NICENESS: Final = 10
_WAITING: Final = 2
"""So many pieces wait for a thread; with those at work they are what is held in memory."""


class Piece(NamedTuple):
    """A piece: the digest of its content, and its size."""

    sha256: str
    size: int

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Gives the piece that has this content."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))

    @property
    def name(self) -> str:
        """Its object in a destination."""
        return f"{FOLDER}{self.sha256[:2]}/{self.sha256}{_ENDING}"


def digest_in(name: str) -> str:
    """Gives the digest in the name of a piece's object."""
    return name.rpartition("/")[2].removesuffix(_ENDING)


def pieces_of(stream: Iterable[bytes], size: int = PIECE) -> Iterator[bytes]:
    """Cuts a stream into pieces; an empty one has none."""
    waiting: list[bytes] = []
    have = 0
    for chunk in stream:
        waiting.append(chunk)
        have += len(chunk)
        if have >= size:
            whole = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            while len(whole) >= size:
                yield whole[:size]
                whole = whole[size:]
            waiting, have = [whole] if whole else [], len(whole)
    if have:
        yield b"".join(waiting)


class _Pooled:
    """Works on the pieces of a destination, with several threads that end with it."""

    def __init__(
        self, destination: Destination, initializer: Callable[[], None] | None = None
    ) -> None:
        if not is_available():
            raise BackupProblem(
                "this Python cannot compress with zstd", advice="install backports.zstd"
            )
        self._destination = destination
        self._pool = ThreadPoolExecutor(_THREADS, initializer=initializer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


class Reader(_Pooled):
    """Reads pieces, and checks each."""

    def read(self, piece: Piece) -> bytes:
        """Gives the content of a piece; raises Damaged if it is missing, or not what it was."""
        packed = self._destination.read(piece.name)
        if packed is None:
            raise Damaged(f"a piece is missing: {piece.name}", advice=_ADVICE)
        try:
            content = zstd.decompress(packed)
        except (zstd.ZstdError, EOFError) as cause:
            raise Damaged(
                f"a piece is damaged: {piece.name}", reason=str(cause), advice=_ADVICE
            ) from cause
        if Piece.of(content) != piece:
            raise Damaged(
                f"a piece is damaged: {piece.name}",
                reason="its content has another digest",
                advice=_ADVICE,
            )
        return content

    def stream(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """Gives the contents of pieces in their order, some read ahead; raises as `read` does."""
        ahead: list[Future[bytes]] = []
        try:
            for piece in pieces:
                ahead.append(self._pool.submit(self.read, piece))
                if len(ahead) > _THREADS:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for one in ahead:
                one.cancel()


_ADVICE: Final = (
    "restore another set (--set), or another copy of the destination; to have the next backup read "
    "this content of a volume again, remove the piece"
)


def _stand_back() -> None:
    """People and Runs go first: what compresses takes the processor time that they leave."""
    if sys.platform == "linux":  # where threads have a niceness of their own
        with suppress(OSError):  # it stands back further already
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class Writer(_Pooled):
    """Stores pieces, several at once; those that are there already are not written again."""

    def __init__(self, destination: Destination, present: Iterable[str]) -> None:
        """`present`: the digests of what is there."""
        super().__init__(destination, initializer=_stand_back)
        self._present = set(present)
        self._room = threading.Semaphore(_THREADS + _WAITING)
        self._guard = threading.Lock()
        self._own = threading.local()
        self._failure: BaseException | None = None
        self.stored_bytes = 0
        """What was written, compressed."""

    def has(self, sha256: str) -> bool:
        """Says whether a piece is there."""
        return sha256 in self._present

    def size_of(self, sha256: str) -> int | None:
        """Gives the bytes of the content of a piece, as its frame says; None: it is not there.

        One that has no frame is written again if it is put.
        """
        packed = self._destination.read(Piece(sha256, 0).name) if self.has(sha256) else None
        try:
            return None if packed is None else zstd.get_frame_info(packed).decompressed_size
        except zstd.ZstdError:
            with self._guard:
                self._present.discard(sha256)
            return None

    def put(self, content: bytes) -> Future[Piece]:
        """Stores a piece; waits while enough others are being stored.

        Once one could not be stored this raises what that has met: whoever reads on would do so for
        nothing.
        """
        self._room.acquire()
        try:
            if self._failure is not None:
                raise self._failure
            return self._pool.submit(self._put, content)
        except BaseException:
            self._room.release()
            raise

    def _compressor(self) -> zstd.ZstdCompressor:
        """Gives this thread's own, since to make one takes as long as to compress a little."""
        if not hasattr(self._own, "compressor"):
            self._own.compressor = zstd.ZstdCompressor(level=_LEVEL)
        found: zstd.ZstdCompressor = self._own.compressor
        return found

    def _put(self, content: bytes) -> Piece:
        try:
            piece = Piece.of(content)
            if not self.has(piece.sha256):
                compressor = self._compressor()
                packed = compressor.compress(content, mode=compressor.FLUSH_FRAME)
                self._destination.write(piece.name, packed)
                with self._guard:
                    self._present.add(piece.sha256)
                    self.stored_bytes += len(packed)
            return piece
        except BaseException as failure:
            self._failure = failure
            raise
        finally:
            self._room.release()
