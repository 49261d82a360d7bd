"""Watches a run pod, and the deadlines by which it must have started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf

from knit_workflows.activities.runs.deadlines import StartDeadlines
from knit_workflows.compute.base import ComputeBackend, Observation, StartFailure


@dataclass(frozen=True, slots=True)
class WatchedPod:
    """A run pod as it is at a moment.

    `expired` is a start failure whose deadline has passed; `deadline` is when the present failure's
    will pass (UTC, whole seconds; None: never).
    """

    observation: Observation
    expired: StartFailure | None
    deadline: datetime | None


async def observations(
    backend: ComputeBackend, pod_name: str, deadlines: StartDeadlines, duration: timedelta | None
) -> AsyncGenerator[WatchedPod, None]:
    """Yields each change of a pod, and once more when a deadline passes.

    Ends after `duration` (None: never).

    Raises:
        BackendUnavailable: the back-end cannot be watched.
    """
    watch = backend.watch(pod_name)
    upcoming: asyncio.Future[Observation] | None = None
    last: Observation | None = None
    ends = inf if duration is None else time.monotonic() + duration.total_seconds()
    try:
        while (now := time.monotonic()) < ends:
            upcoming = upcoming or asyncio.ensure_future(anext(watch))
            remaining = deadlines.remaining(now) if last else None
            timeout = min(inf if remaining is None else remaining, ends - now)
            done, _ = await asyncio.wait([upcoming], timeout=None if timeout == inf else timeout)
            if done:
                last, upcoming = upcoming.result(), None
            if last is not None:
                yield _watched(last, deadlines)
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await upcoming


def _watched(observation: Observation, deadlines: StartDeadlines) -> WatchedPod:
    now = time.monotonic()
    expired = deadlines.expired(observation, now)
    remaining = deadlines.remaining(now)
    deadline = None if remaining is None else datetime.now(UTC) + timedelta(seconds=remaining)
    return WatchedPod(observation, expired, deadline and deadline.replace(microsecond=0))
