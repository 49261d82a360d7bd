"""Brings a database to the present tables; Alembic is imported only when that is asked for.

Forward only. To add a revision: change `tables`, write `versions/rev_NNNN_what.py`, raise
`REVISION`; a test compares the result with `tables`. What a revision may do while programs of the
one before are at work is in docs/operations/upgrades.md: a test refuses the rest, unless `SERVES`
is raised with it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from knit_workflows.store.locks import AdvisoryLock

REVISION: Final = "0014"
"""The newest revision, which this knit needs."""

SERVES: Final = "0014"
"""The oldest revision whose programs go on working, rightly, with a database of `REVISION`. The
database keeps it, so that earlier programs can read it."""


class RoleRefused(Exception):
    """The application's role cannot be granted what it needs; the message says what to do."""


async def migrate(url: str, *, application_role: str | None = None) -> None:
    """Brings the database at `url` to `REVISION`, with the built-in Plans.

    `application_role` is granted what knit's processes need: to read and write rows, but neither to
    change tables nor to change or remove rows of the audit log. The second call changes nothing;
    processes that call at once wait for each other.

    Raises:
        StoreUnavailable: the database does not answer.
        RoleRefused: there is no such role, or it may do more than that already.
    """
    await asyncio.to_thread(_migrate, url, application_role)


def _migrate(url: str, application_role: str | None) -> None:
    from knit_workflows.store.migrations.upgrade import upgrade  # keeps Alembic out of servers

    upgrade(
        url,
        lock=AdvisoryLock.MIGRATION,
        folder=Path(__file__).parent,
        application_role=application_role,
    )
