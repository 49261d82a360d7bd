"""Bridges between the event loop and threads that block: bounded, and never left behind."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

PIPE_BYTES: Final = 2 << 20
"""How much of a body waits for the thread that unpacks it."""

_END: Final = object()
_unfinished: set[asyncio.Future[Any]] = set()


async def finish_despite_cancel(work: Awaitable[T]) -> T:
    """Waits for work to its end even when cancelled meanwhile; the cancellation comes after it."""
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
            task.exception()  # seen, though nobody is left to be told
        raise interruption
    return task.result()


async def drain_background(seconds: float) -> None:
    """Waits for work that outlives its request; called when the process ends."""
    if _unfinished:
        await asyncio.wait(set(_unfinished), timeout=seconds)


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks that still run and waits until all have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # marks it as seen; whoever cares still asks for the result


class BodyAborted(Exception):
    """The feeding side of a pipe has given up."""


class BytePipe:
    """Bytes from the event loop to one thread; holds about `limit` bytes, then the loop waits."""

    def __init__(self, limit: int = PIPE_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._abandoned = False
        self._filled = threading.Condition()
        self._room = asyncio.Event()

    async def put(self, chunk: bytes) -> bool:
        """Hands a chunk over, waiting for room; False: nobody reads any more."""
        with self._filled:
            if self._abandoned:
                return False
            self._chunks.append(chunk)
            self._size += len(chunk)
            full = self._size >= self._limit
            if full:
                self._room.clear()
            self._filled.notify()
        if full:
            await self._room.wait()
        return not self._abandoned

    def end(self) -> None:
        """Says that everything has been put."""
        with self._filled:
            self._ended = True
            self._filled.notify()

    def break_off(self) -> None:
        """Makes the reader's next call raise BodyAborted; after `end` it changes nothing."""
        with self._filled:
            self._broken = not self._ended
            self._filled.notify()

    def get(self) -> bytes:
        """Waits, in the thread, for the next chunk; empty at the end. Raises BodyAborted."""
        with self._filled:
            while not (self._chunks or self._ended or self._broken):
                self._filled.wait()
            if self._broken:
                raise BodyAborted
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            self._size -= len(chunk)
            if self._size <= self._limit // 2:
                self._make_room()
            return chunk

    def abandon(self) -> None:
        """Says, from the thread, that nothing will be read any more."""
        with self._filled:
            self._abandoned = True
            self._chunks.clear()
            self._make_room()

    def _make_room(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._room.set)


class ThreadIterator(Generic[T]):
    """Steps a blocking iterator in threads, one item ahead of whoever takes them.

    `aclose` waits for a step that is under way, since a generator cannot be closed in the middle.
    """

    def __init__(self, executor: Executor, make: Callable[[], Iterator[T]]) -> None:
        self._executor = executor
        self._items = make()
        self._ahead: asyncio.Future[Any] | None = None

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        step = self._ahead or self._step()
        self._ahead = None
        try:
            item = await asyncio.shield(step)
        except asyncio.CancelledError:
            self._ahead = step
            raise
        if item is _END:
            raise StopAsyncIteration
        self._ahead = self._step()
        return item  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Lets go of what the iterator holds."""
        await finish_despite_cancel(self._close())

    async def _close(self) -> None:
        if self._ahead is not None:
            await asyncio.wait({self._ahead})
            if not self._ahead.cancelled():
                self._ahead.exception()  # nobody wants to hear of it any more
        close = getattr(self._items, "close", None)
        if close is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, close)

    def _step(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._executor, next, self._items, _END)


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads for work that blocks: a transfer keeps one, other work takes one for a moment."""

    uploads: ThreadPoolExecutor
    downloads: ThreadPoolExecutor
    steps: ThreadPoolExecutor

    @classmethod
    def start(cls) -> Threads:
        """Gives pools that grow as they are used."""
        return cls(
            ThreadPoolExecutor(64, "upload"),
            ThreadPoolExecutor(256, "download"),
            ThreadPoolExecutor(8, "step"),
        )

    def shutdown(self) -> None:
        """Lets the threads end; none is waited for."""
        self.uploads.shutdown(wait=False, cancel_futures=True)
        self.downloads.shutdown(wait=False, cancel_futures=True)
        self.steps.shutdown(wait=False, cancel_futures=True)
