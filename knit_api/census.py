"""Counts Runs by status and Plan for the metrics, by one query that is not repeated at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from knit_api.watchdog import wait_or_abandon
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.metrics.instruments import (
    DATABASE_UP,
    MOST_PLANS,
    OLDEST_WAITING,
    OTHER_PLANS,
    PLAN_RUNS,
    RUNS,
)

log = logging.getLogger(__name__)

COUNTED: Final = tuple(status for status in RunStatus if not status.is_final)
_KEPT_SECONDS: Final = 10.0
_TIMEOUT: Final = 5.0


class Census:
    """The gauges of Runs, as the database had them at most ten seconds ago."""

    def __init__(
        self, store: Callable[[], Awaitable[ApiStore]], *, kept: float = _KEPT_SECONDS
    ) -> None:
        self._store = store
        self._kept = kept
        self._taken_at = float("-inf")
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Counts anew if the last count is too old; without a database the gauges are gone."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if clock() - self._taken_at < self._kept:
                return
            try:
                await wait_or_abandon(self._take(), _TIMEOUT)
                DATABASE_UP.set(1)
            except Exception as error:  # noqa: BLE001  whatever it is, the other metrics are told
                log.warning("Runs are not counted: %r", error, extra={"action": "not_counted"})
                RUNS.clear()
                PLAN_RUNS.clear()
                OLDEST_WAITING.set(float("nan"))
                DATABASE_UP.set(0)
            self._taken_at = clock()

    async def _take(self) -> None:
        census = await (await self._store()).runs.census(plans=MOST_PLANS)
        PLAN_RUNS.clear()  # of Plans that are no longer among those with the most Runs
        for status in COUNTED:
            every = census.runs.get(status, 0)
            RUNS.labels(status).set(every)
            for one in census.plans:
                of_plan = one.runs.get(status, 0)
                PLAN_RUNS.labels(one.plan_id, one.plan, status).set(of_plan)
                every -= of_plan
            PLAN_RUNS.labels(OTHER_PLANS, OTHER_PLANS, status).set(every)
        OLDEST_WAITING.set(census.oldest_waiting.total_seconds())
