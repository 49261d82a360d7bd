"""Measures whether scheduled backups are taken, for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from temporalio.client import Client
from temporalio.service import RPCError

from knit_workflows.metrics.instruments import BACKUP_PERIOD, BACKUP_SUCCESS
from knit_workflows.temporal.backup_schedule import FoundSchedule, find_schedule

log = logging.getLogger(__name__)

_LOOKS_EVERY: Final = 30.0


@asynccontextmanager
async def measured_backups(client: Client) -> AsyncIterator[None]:
    """Looks at the schedule now and then while inside.

    Every worker with the role `backup` does, and with the role `engine`: when there is no worker
    any more that takes backups, the others have to say how old the last one is.
    """
    looking = asyncio.create_task(_look(client))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look(client: Client) -> None:
    while True:
        try:
            measure(await find_schedule(client))
        except (RPCError, RuntimeError) as error:  # an outage: what was measured last stays
            log.debug("the schedule of backups is not looked at: %s", error)
        except Exception:  # others may have edited it; when it is mended it is measured again
            log.exception("the schedule of backups cannot be read: set it again")
        await asyncio.sleep(_LOOKS_EVERY)


def measure(found: FoundSchedule | None) -> None:
    """Says how it is; without a schedule there is nothing to say."""
    BACKUP_SUCCESS.clear()
    BACKUP_PERIOD.clear()
    if found is None:
        return
    BACKUP_SUCCESS.labels(found.destination).set(found.succeeded_at.timestamp())
    if found.period is not None:
        BACKUP_PERIOD.labels(found.destination).set(found.period.total_seconds())
