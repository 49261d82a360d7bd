"""Notices that the database has been upgraded beyond this process, which then ends.

It would not know of what is new: it could answer wrongly, or leave out what newer ones record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from knit_workflows.domain.errors import KnitError, StoreIsNewer
from knit_workflows.domain.ports import ApiStore

LOOKS_EVERY: Final = 10.0
"""Seconds between two looks, as with workers."""


@dataclass
class SchemaWatch:
    """`reason`: why this process is about to end; None: it is not."""

    reason: str | None = None

    async def follow(self, store: Callable[[], Awaitable[ApiStore]]) -> None:
        """Returns as soon as the database is newer; a database that is away is waited for."""
        while self.reason is None:
            try:
                await (await store()).open()
            except StoreIsNewer as newer:
                self.reason = "; ".join(filter(None, (newer.reason, newer.advice)))
            except KnitError:
                await asyncio.sleep(LOOKS_EVERY)
            else:
                await asyncio.sleep(LOOKS_EVERY)
