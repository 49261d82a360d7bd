"""Watches a run pod with limited patience: what is seen of it, and until when that may last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf

from knit_workflows.activities.patience import Patience
from knit_workflows.compute.base import ComputeBackend, Observation, StartFailure


@dataclass(frozen=True, slots=True)
class Seen:
    """A run pod as it is: `lost_with` is trouble that has lasted too long, `given_up_at` when the
    present one will have (UTC, whole seconds; None: never)."""

    observation: Observation
    lost_with: StartFailure | None
    given_up_at: datetime | None


async def observations(
    backend: ComputeBackend, pod_name: str, patience: Patience, for_: timedelta | None
) -> AsyncGenerator[Seen, None]:
    """Yields each change of a pod, and again when patience with its trouble ends.

    Without end, unless `for_` is over. Raises BackendUnavailable.
    """
    watch = backend.watch(pod_name)
    upcoming: asyncio.Future[Observation] | None = None
    last: Observation | None = None
    ends = inf if for_ is None else time.monotonic() + for_.total_seconds()
    try:
        while (now := time.monotonic()) < ends:
            upcoming = upcoming or asyncio.ensure_future(anext(watch))
            wakes_in = patience.wakes_in(now) if last else None
            timeout = min(inf if wakes_in is None else wakes_in, ends - now)
            done, _ = await asyncio.wait([upcoming], timeout=None if timeout == inf else timeout)
            if done:
                last, upcoming = upcoming.result(), None
            if last is not None:
                yield _seen(last, patience)
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await upcoming


def _seen(observation: Observation, patience: Patience) -> Seen:
    now = time.monotonic()
    lost_with = patience.lost_with(observation, now)
    left = patience.wakes_in(now)
    until = None if left is None else datetime.now(UTC) + timedelta(seconds=left)
    return Seen(observation, lost_with, until and until.replace(microsecond=0))
