"""Brings a database to the present tables; Alembic is imported only when that is asked for.

Forward only. To add a revision: change `tables`, write `versions/rev_NNNN_what.py`, raise
`REVISION`; a test compares the result with `tables`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

REVISION: Final = "0007"
"""The newest revision, the only one this knit works with."""

_LOCK: Final = 5_640_101
"""Advisory lock held while migrating; any number that no other user of the database takes."""


async def migrate(url: str) -> None:
    """Brings the database at `url` to `REVISION`, seed the built-in Plans.

    The second call changes nothing; processes that call at once wait for each other. Raises
    StoreUnavailable when the database does not answer.
    """
    await asyncio.to_thread(_migrate, url)


def _migrate(url: str) -> None:
    from knit_workflows.store.migrations.upgrade import upgrade  # keeps Alembic out of servers

    upgrade(url, lock=_LOCK, folder=Path(__file__).parent)
