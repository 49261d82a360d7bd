"""Streams of chunks: read like a file, and several that are consumed at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Queue
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

T = TypeVar("T")

_WAITING: Final = 1
"""So many chunks of a stream wait for its thread: they are whole pieces."""


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


class AtOnce(Generic[T]):
    """Consumes up to so many streams at the same time; one is consumed by its caller."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pool = ThreadPoolExecutor(limit)
        self._pending: deque[Future[T]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for those that are at work; their streams have ended, if with an error."""
        self._pool.shutdown()

    def do(self, consume: Callable[[Iterator[bytes]], T], stream: Iterator[bytes]) -> Iterator[T]:
        """Passes a stream to `consume`, and gives the results that are due, in order.

        If the stream raises, it does so for `consume` and here. A stream that `consume` leaves is
        read to its end.
        """
        if self._limit == 1:
            yield consume(stream)
            return
        while len(self._pending) >= self._limit:
            yield self._pending.popleft().result()
        passed: Queue[bytes | BaseException | None] = Queue(_WAITING)
        self._pending.append(self._pool.submit(_consumed, consume, passed))
        try:
            for chunk in stream:
                passed.put(chunk)
            passed.put(None)
        except BaseException as failure:
            passed.put(failure)
            raise

    def rest(self) -> Iterator[T]:
        """Gives the results that are left."""
        while self._pending:
            yield self._pending.popleft().result()


class _Cut(Exception):
    """The stream has raised."""


def _consumed(
    consume: Callable[[Iterator[bytes]], T], passed: Queue[bytes | BaseException | None]
) -> T:
    def chunks() -> Iterator[bytes]:
        while (chunk := passed.get()) is not None:
            if isinstance(chunk, BaseException):
                raise _Cut from chunk
            yield chunk

    received = chunks()
    try:
        return consume(received)
    finally:
        for _ in received:  # whoever passes it would wait for ever
            pass
