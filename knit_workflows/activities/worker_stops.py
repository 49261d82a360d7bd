"""What merely waits, and need not be finished by a worker that is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

_AT_ONCE = timedelta(milliseconds=1)
"""Zero would mean: as the retry policy says."""


@asynccontextmanager
async def until_worker_stops() -> AsyncIterator[None]:
    """Gives up what is inside as soon as the worker is told to stop; another one goes on with it.

    For waits that can begin anew at any time, and not in the middle of a change.

    Raises:
        ApplicationError: the worker stops; the activity is tried again at once.
    """
    task = asyncio.current_task()
    assert task is not None
    stops = False

    async def cancel() -> None:
        nonlocal stops
        await activity.wait_for_worker_shutdown()
        stops = True
        task.cancel()

    waiting = asyncio.create_task(cancel())
    try:
        yield
    except asyncio.CancelledError as cancelled:
        # Another cancellation may have come meanwhile: then it is not ours to swallow.
        if not stops or task.uncancel() > 0:
            raise
        raise ApplicationError(
            "the worker stops, another one goes on",
            type="WorkerStops",
            next_retry_delay=_AT_ONCE,
            category=ApplicationErrorCategory.BENIGN,
        ) from cancelled
    finally:
        waiting.cancel()
