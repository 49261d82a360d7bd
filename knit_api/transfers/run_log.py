"""Gives the log of a Run: what there is, or also what is still being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Final

from knit_api.deps import Deps
from knit_api.errors import HttpProblem
from knit_api.responses import StreamedResponse
from knit_api.server.framing import needs_http_1_1
from knit_api.server.streams import cancelled
from knit_api.server.trailers import ResponseCut
from knit_api.transfers.doors import Pieces
from knit_api.transfers.transfers import primed, reading
from knit_workflows.domain import errors
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs import RunDetail, RunStatus

MEDIA_TYPE: Final = "application/octet-stream"
OFFSET_HEADER: Final = "Log-Offset"
SIZE_HEADER: Final = "Log-Size"
"""How long all of it is now; unlike a length of HTTP, it comes through every proxy."""
ID_HEADER: Final = "Log-Knit-Id"
"""Whose content it is: a Run that is retried has another log, which may have grown as long."""
ASK_SECONDS: Final = 0.5
"""How often the store is asked whether a followed Run goes on."""
QUIET_SECONDS: Final = 0.5
"""A Run that has ended and says nothing for so long has said everything."""
QUIET_WHILE_ENDING_SECONDS: Final = 3.0
"""The same while it is being ended: a stopped container may still have a last word."""

_NOT_STARTED: Final = (RunStatus.DEACTIVATED, RunStatus.WAITING, RunStatus.READY)
_UNDER_WAY: Final = (RunStatus.STARTING, RunStatus.RUNNING)
_ENDING: Final = (RunStatus.COMPLETING, RunStatus.ABORTING)


async def log_response(
    deps: Deps, run_id: RunId, *, follow: bool, offset: int = 0, chunks: bool = True
) -> StreamedResponse:
    """Gives a Run's log behind its first `offset` bytes.

    Raises RunNotFound, NotFound (no log), TransferNotReady (not started); HttpProblem where there
    are not so many bytes, or without `chunks` no length can be told.
    """
    store = await deps.store.get()
    run = await store.runs.get(run_id)
    status = run.summary.status
    if status is RunStatus.INVALIDATED or run.log is None or run.log.knit_id is None:
        raise errors.NotFound(
            "the Run has no log",
            advice="a log is kept when the Plan has `log`, until the Run is deleted",
            see=run_id,
        )
    if status in _NOT_STARTED:
        raise errors.TransferNotReady(
            f"the Run is {status}; there is no log yet",
            advice="try again when it has started",
            see=run_id,
        )
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(reading(deps, run.log.knit_id))
        headers = {OFFSET_HEADER: str(offset), ID_HEADER: run.log.knit_id}
        if follow and status in _UNDER_WAY:
            if not chunks:
                raise needs_http_1_1("a log that is followed")
            pieces = door.followed()
            stack.push_async_callback(pieces.aclose)
            body = _behind(offset, _followed(pieces, deps, _Watch(store, run)))
            return StreamedResponse(body, stack.pop_all(), MEDIA_TYPE, headers=headers)
        # Measured first: what is added while it is sent is for the next who asks.
        size = await door.content_bytes()
        length = _left_behind(offset, size, chunks=chunks)
        if size is not None:
            headers[SIZE_HEADER] = str(size)
        body = _behind(offset, _up_to(size, await primed(stack, door.content())))
        return StreamedResponse(body, stack.pop_all(), MEDIA_TYPE, length=length, headers=headers)


def _left_behind(offset: int, size: int | None, *, chunks: bool) -> int | None:
    if size is None:
        if not chunks:
            raise needs_http_1_1("the log")
        return None
    if offset > size:
        raise HttpProblem(
            409,
            f"the log has {size} bytes, which is less than the offset",
            "ask for it from its start: its Run was retried since you had so much of it",
        )
    return size - offset


async def _behind(offset: int, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            if rest := piece[offset:]:
                yield rest
            offset = max(0, offset - len(piece))


async def _up_to(
    size: int | None, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece if size is None else piece[:size]
            if size is not None:
                size -= len(piece)
                if size <= 0:
                    return


class _Watch:
    """Knows how far a Run is, by asking the store at a steady interval."""

    def __init__(self, store: ApiStore, run: RunDetail) -> None:
        self._store = store
        self._run_id = run.summary.run_id
        self._generation = run.generation
        self._silence: float | None = None
        self._since = 0.0

    async def keep_asking(self) -> None:
        """Asks until the Run is final."""
        while self._silence != QUIET_SECONDS:
            await asyncio.sleep(ASK_SECONDS)
            try:
                silence = self._silence_after(await self._store.runs.get(self._run_id))
            except errors.NotFound:
                silence = QUIET_SECONDS
            except errors.Unavailable:
                continue
            if silence != self._silence:
                self._silence, self._since = silence, asyncio.get_running_loop().time()

    def is_over(self, last: float) -> bool:
        """Says whether nothing more will come, when the last piece came at that loop time."""
        if self._silence is None:
            return False
        now = asyncio.get_running_loop().time()
        return now - max(last, self._since) >= self._silence

    def _silence_after(self, run: RunDetail) -> float | None:
        """Gives how long a silence is the end; None while the Run goes on."""
        status = run.summary.status
        if run.generation == self._generation and status in _UNDER_WAY:
            return None
        return QUIET_WHILE_ENDING_SECONDS if status in _ENDING else QUIET_SECONDS


async def _followed(pieces: Pieces, deps: Deps, watch: _Watch) -> AsyncGenerator[bytes, None]:
    """Pass on what comes until the Run has ended and it is quiet.

    When this process ends before that, it raises ResponseCut: it is not the end of the log.
    """
    loop = asyncio.get_running_loop()
    asking = asyncio.ensure_future(watch.keep_asking())
    last, over = loop.time(), False
    try:
        async for piece in pieces:
            if piece:
                last, over = loop.time(), False
                yield piece
            elif over:
                return
            elif deps.stopping.is_set():
                raise ResponseCut("this server ends before the Run does")
            else:  # one more look: a busy machine may have kept this one's answer for long
                over = watch.is_over(last)
    finally:
        await cancelled(asking)
