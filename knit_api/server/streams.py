"""Bridges between the event loop and blocking threads: bounded, and always closed."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")

PIPE_BYTES: Final = 2 << 20
"""How much of a body may wait for the thread that unpacks it."""

_END: Final = object()
_unfinished: set[asyncio.Future[Any]] = set()


async def finish_despite_cancel(work: Awaitable[T]) -> T:
    """Waits until `work` is done even if cancelled meanwhile; the cancellation is raised then."""
    task = asyncio.ensure_future(work)
    _unfinished.add(task)  # the loop itself holds tasks weakly only
    task.add_done_callback(_unfinished.discard)
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        if not task.cancelled():
            task.exception()  # retrieved, though nobody is left to handle it
        raise interruption
    return task.result()


async def drain_background(timeout: float) -> None:
    """Waits for work that outlives its request, at most `timeout` seconds; called on shutdown."""
    if _unfinished:
        await asyncio.wait(set(_unfinished), timeout=timeout)


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks that still run and waits until all are done."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as retrieved; a caller may still ask for the result


class Chunks(Protocol):
    """Bytes in chunks, from something that must be closed; an async generator is one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...
    async def aclose(self) -> None: ...  # noqa: D102


class BodyAborted(Exception):
    """The sending side of a body was aborted; the reader has only a part of it."""


class BodySource(Protocol):
    """Where a thread reads a body: a pipe that the event loop fills, or the socket itself."""

    def get(self) -> bytes | memoryview:
        """Waits for the next chunk, good until the next call; empty at the end."""

    def close(self) -> None:
        """Called by the reading thread: nothing more will be read."""

    def abort(self) -> None:
        """Makes the present or next `get` raise BodyAborted, unless the body is complete."""


class BytePipe:
    """A BodySource that the event loop fills; it holds about `limit` bytes, then `put` waits."""

    def __init__(self, limit: int = PIPE_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._aborted = False
        self._closed = False
        self._filled = threading.Condition()
        self._room = asyncio.Event()

    async def put(self, chunk: bytes) -> bool:
        """Appends a chunk, waiting for room; False: the reader has closed the pipe."""
        with self._filled:
            if self._closed:
                return False
            self._chunks.append(chunk)
            self._size += len(chunk)
            full = self._size >= self._limit
            if full:
                self._room.clear()
            self._filled.notify()
        if full:
            await self._room.wait()
        return not self._closed

    def put_eof(self) -> None:
        """Marks the end: the body is complete."""
        with self._filled:
            self._ended = True
            self._filled.notify()

    def abort(self) -> None:
        """See `BodySource`; after `put_eof` it changes nothing."""
        with self._filled:
            self._aborted = not self._ended
            self._filled.notify()

    def get(self) -> bytes:
        """See `BodySource`."""
        with self._filled:
            while not (self._chunks or self._ended or self._aborted):
                self._filled.wait()
            if self._aborted:
                raise BodyAborted
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            self._size -= len(chunk)
            if self._size <= self._limit // 2:
                self._make_room()
            return chunk

    def close(self) -> None:
        """See `BodySource`."""
        with self._filled:
            self._closed = True
            self._chunks.clear()
            self._make_room()

    def _make_room(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._room.set)


class ThreadIterator(Generic[T]):
    """Steps a blocking iterator in threads, one item ahead of its consumer.

    `aclose` waits for a step that is running, since a generator cannot be closed while it runs.
    """

    def __init__(self, executor: Executor, make: Callable[[], Iterator[T]]) -> None:
        self._executor = executor
        self._items = make()
        self._prefetched: asyncio.Future[Any] | None = None

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        step = self._prefetched or self._step()
        self._prefetched = None
        try:
            item = await asyncio.shield(step)
        except asyncio.CancelledError:
            self._prefetched = step
            raise
        if item is _END:
            raise StopAsyncIteration
        self._prefetched = self._step()
        return item  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Closes the blocking iterator."""
        await finish_despite_cancel(self._close())

    async def _close(self) -> None:
        if self._prefetched is not None:
            await asyncio.wait({self._prefetched})
            if not self._prefetched.cancelled():
                self._prefetched.exception()  # retrieved: nobody is left to handle it
        close = getattr(self._items, "close", None)
        if close is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, close)

    def _step(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._executor, next, self._items, _END)


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads for blocking work: a transfer keeps one, a `step` takes one for a moment."""

    uploads: ThreadPoolExecutor
    downloads: ThreadPoolExecutor
    steps: ThreadPoolExecutor

    @classmethod
    def start(cls) -> Threads:
        """Gives pools whose threads start when needed.

        A transfer without a thread is open, and nobody reads or writes: to its client the API looks
        as if it did not answer. So there may be far more than transfers are likely to be.
        """
        return cls(
            ThreadPoolExecutor(1024, "upload"),
            ThreadPoolExecutor(1024, "download"),
            ThreadPoolExecutor(8, "step"),
        )

    def shutdown(self) -> None:
        """Ends the threads without waiting for them."""
        self.uploads.shutdown(wait=False, cancel_futures=True)
        self.downloads.shutdown(wait=False, cancel_futures=True)
        self.steps.shutdown(wait=False, cancel_futures=True)
