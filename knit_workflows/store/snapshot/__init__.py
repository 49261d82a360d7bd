"""The whole database at one instant: read while others write, and loaded into an empty one.

Rows travel as PostgreSQL's COPY writes them, which every version of it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.store.connection import libpq_address, unavailable
from knit_workflows.store.tables import metadata

LEFT_OUT: Final = frozenset(
    {"admission", "discarded", "hook_follower", "hooks", "transfer", "warm_volume"}
)
"""Tables of what only the running installation means: its limits and hooks, its open transfers, and
volumes that it is about to delete."""

TABLES: Final = tuple(
    (table.name, tuple(column.name for column in table.columns))
    for table in metadata.sorted_tables
    if table.name not in LEFT_OUT
)
"""Names and columns of all others; what a table refers to comes before it."""


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Connects, in autocommit mode.

    Raises:
        StoreUnavailable: the database does not answer, or refuses what is done inside.
    """
    try:
        with psycopg.connect(libpq_address(url), autocommit=True, connect_timeout=30) as connection:
            yield connection
    except psycopg.errors.InsufficientPrivilege as cause:
        raise StoreUnavailable(
            f"the database refuses it: {' '.join(str(cause).split())}",
            advice="connect as the owner of the tables (KNIT_STORE__URL)",
        ) from cause
    except psycopg.Error as cause:
        raise unavailable(cause) from cause
