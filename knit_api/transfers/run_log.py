"""Responds with the log of a Run: what there is, and if followed what is appended to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Final

from knit_api.deps import Deps, Timeouts
from knit_api.errors import HttpProblem
from knit_api.responses import StreamedResponse
from knit_api.server.framing import needs_http_1_1
from knit_api.server.streams import Chunks, cancel_and_wait
from knit_api.server.trailers import ResponseAborted
from knit_api.transfers.download import prefetched
from knit_api.transfers.lifecycle import reading
from knit_api.transfers.volume_access import VolumeAccess
from knit_workflows.domain import errors
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs.run import DISRUPTED, OUTPUTS_READ, RunDetail, RunStatus, WaitKind

MEDIA_TYPE: Final = "application/octet-stream"
OFFSET_HEADER: Final = "Log-Offset"
SIZE_HEADER: Final = "Log-Size"
"""The size of the log now; unlike `Content-Length` it comes through every proxy."""
ID_HEADER: Final = "Log-Knit-Id"
"""The Data of the log: a Run that is retried has another one, which may have grown as long."""

_STUCK: Final = frozenset(
    {WaitKind.UNSCHEDULABLE, WaitKind.REFUSED, WaitKind.IMAGE, WaitKind.TRANSIENT}
)
"""What a container waits for that certainly has not started."""


async def log_response(
    deps: Deps, run_id: RunId, *, follow: bool, offset: int = 0, chunked: bool = True
) -> StreamedResponse:
    """Gives the response: a Run's log after its first `offset` bytes.

    Raises:
        RunNotFound: there is no such Run.
        NotFound: it has no log.
        TransferNotReady: it has not started.
        HttpProblem: the log is shorter than `offset` (409), or `chunked` is not possible and its
            length not known (426).
    """
    timeouts = deps.timeouts
    store = await deps.store.get()
    run = await store.runs.get(run_id)
    knit_id = log_of(run)
    headers = {OFFSET_HEADER: str(offset), ID_HEADER: knit_id}
    async with AsyncExitStack() as stack:
        volume = await stack.enter_async_context(reading(deps, knit_id))
        if follow and run.summary.status.is_under_way:
            if not chunked:
                raise needs_http_1_1("a log that is followed")
            chunks = volume.followed()
            stack.push_async_callback(chunks.aclose)
            monitor = _RunMonitor(store, run, timeouts)
            body = _after(offset, _followed(volume, chunks, deps, monitor))
            return StreamedResponse(
                body,
                stack.pop_all(),
                MEDIA_TYPE,
                write_timeout=timeouts.write,
                headers=headers,
            )
        # Measured first: what is appended while it is sent is for the next request.
        size = await volume.content_bytes()
        length = _remaining(offset, size)
        headers[SIZE_HEADER] = str(size)
        body = _after(offset, _up_to(size, await prefetched(stack, volume.content())))
        return StreamedResponse(
            body,
            stack.pop_all(),
            MEDIA_TYPE,
            write_timeout=timeouts.write,
            length=length,
            headers=headers,
        )


def log_of(run: RunDetail) -> KnitId:
    """Gives the Data of a Run's log.

    Raises:
        NotFound: it has none.
        TransferNotReady: it has not started, as far as anybody can know.
    """
    status = run.summary.status
    if status is RunStatus.INVALIDATED or run.log is None or run.log.knit_id is None:
        raise errors.NotFound(
            "the Run has no log",
            advice="a log is kept when the Plan has `log`, until the Run is deleted",
            see=run.summary.run_id,
        )
    if status is RunStatus.STARTING and run.waiting is not None and run.waiting.kind in _STUCK:
        # Its log volume may never come to exist, so neither would a pod that reads it.
        code = f"[{run.waiting.code}] " if run.waiting.code else ""
        raise errors.TransferNotReady(
            f"the Run has not started, so there is no log yet: {code}{run.waiting.reason}",
            advice="look at it with `knit run show`; try again when it has started",
            see=run.summary.run_id,
        )
    if not (status.is_under_way or status.is_ending or status.is_final):
        raise errors.TransferNotReady(
            f"the Run is {status}; there is no log yet",
            advice="try again when it has started",
            see=run.summary.run_id,
        )
    return run.log.knit_id


def _remaining(offset: int, size: int) -> int:
    if offset > size:
        raise HttpProblem(
            409,
            f"the log has {size} bytes, which is less than the offset",
            "ask for it from its start: its Run was retried since you had so much of it",
        )
    return size - offset


async def _after(offset: int, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            if remainder := chunk[offset:]:
                yield remainder
            offset = max(0, offset - len(chunk))


async def _up_to(size: int, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk[:size]
            size -= len(chunk)
            if size <= 0:
                return


class _RunMonitor:
    """Polls the store for whether a Run goes on."""

    def __init__(self, store: ApiStore, run: RunDetail, timeouts: Timeouts) -> None:
        self._store = store
        self._timeouts = timeouts
        self._run_id = run.summary.run_id
        self._generation = run.generation
        self._idle_timeout: float | None = None
        self._since = 0.0

    async def poll(self) -> None:
        """Polls until the Run is final."""
        is_final = False
        idle_timeout: float | None
        while not is_final:
            await asyncio.sleep(self._timeouts.log_poll_interval)
            try:
                run = await self._store.runs.get(self._run_id)
            except errors.NotFound:
                is_final, idle_timeout = True, self._timeouts.log_idle
            except errors.Unavailable:
                continue
            else:
                is_final, idle_timeout = self._outlook(run)
            if idle_timeout != self._idle_timeout:
                self._idle_timeout, self._since = idle_timeout, asyncio.get_running_loop().time()

    def is_over(self, last: float) -> bool:
        """Says whether the log is complete, if its last chunk came at that loop time."""
        if self._idle_timeout is None:
            return False
        now = asyncio.get_running_loop().time()
        return now - max(last, self._since) >= self._idle_timeout

    def _outlook(self, run: RunDetail) -> tuple[bool, float | None]:
        """Gives whether the Run is over, and how long its log may be idle (None: for ever)."""
        status = run.summary.status
        # Its pod is going, and the Run is launched again only once nobody reads this log.
        disrupted = run.waiting is not None and run.waiting.code in (DISRUPTED, OUTPUTS_READ)
        if run.generation == self._generation and status.is_under_way and not disrupted:
            return False, None
        if status.is_ending or disrupted:
            return False, self._timeouts.log_idle_while_ending
        return True, self._timeouts.log_idle


async def _followed(
    volume: VolumeAccess, chunks: Chunks, deps: Deps, monitor: _RunMonitor
) -> AsyncGenerator[bytes, None]:
    """Passes chunks on until the Run has ended, its log is idle, and all of it has come.

    Raises:
        ResponseAborted: this process ends before that, or the volume gives no more: it is not the
            end of the log.
    """
    loop = asyncio.get_running_loop()
    polling = asyncio.ensure_future(monitor.poll())
    last, over, passed_on, lacks = loop.time(), False, 0, False
    try:
        async for chunk in chunks:
            if chunk:
                last, over, lacks = loop.time(), False, False
                passed_on += len(chunk)
                yield chunk
            elif over:
                if await _log_bytes(volume, deps.timeouts.log_size) <= passed_on:
                    return
                if lacks:
                    raise ResponseAborted("there is more of the log, and it does not come")
                over, lacks = False, True  # it may have been written just now
            elif deps.stopping.is_set():
                raise ResponseAborted("this server ends before the Run does")
            else:  # read once more: on a busy machine this chunk may be an old one
                over = monitor.is_over(last)
    finally:
        await cancel_and_wait(polling)


async def _log_bytes(volume: VolumeAccess, within: float) -> int:
    """Gives how large a log is; raises ResponseAborted if its volume does not say so in time."""
    try:
        async with asyncio.timeout(within):
            return await volume.content_bytes()
    except errors.DataNotFound:
        return 0  # its Run ended before it could write anything
    except (errors.KnitError, TimeoutError) as error:
        raise ResponseAborted("nobody knows whether the log is complete") from error
