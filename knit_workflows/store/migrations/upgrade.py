"""Runs Alembic on one locked connection, beside processes that work with the database."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.store.migrations.grants import grant

log = logging.getLogger(__name__)

WAITS_FOR_LOCKS: Final = 2.0
"""Seconds that a statement waits for a table which somebody uses. Whoever comes after it waits
behind it, so that one long read would otherwise stop everybody for as long as it takes."""
PATIENCE: Final = 300.0
"""Seconds in which it tries again and again."""
_PAUSE: Final = 1.0
_IN_USE: Final = frozenset({"55P03", "40P01"})
"""SQLSTATEs: no lock in time; a deadlock, which PostgreSQL finds sooner than that time is over."""

_one_at_a_time: Final = threading.Lock()
"""Alembic keeps the running migration in globals: two threads must not share them."""


def upgrade(
    url: str,
    *,
    lock: int,
    folder: Path,
    application_role: str | None = None,
    revision: str = "head",
    patience: float = PATIENCE,
) -> None:
    """Upgrades to a revision and grants, or does neither; holds the lock `lock`.

    If a table is in use for longer than `WAITS_FOR_LOCKS`, or by those who wait for it in turn, it
    lets everybody pass, and begins anew.

    Raises:
        StoreUnavailable: the database does not answer, is of a newer knit, or a table is in use
            all the time.
    """
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    try:
        with _one_at_a_time, engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": lock})
            connection.commit()  # the lock is the session's, and stays
            config.attributes["connection"] = connection
            _until_free(connection, config, revision, application_role, patience)
    except CommandError as cause:
        raise StoreUnavailable(
            f"the database cannot be migrated: {cause}",
            advice="a newer knit may have migrated it: use that version, or restore a backup",
        ) from cause
    except OperationalError as cause:
        words = " ".join(str(cause.orig or cause).split())
        raise StoreUnavailable(
            f"the database does not answer: {words}",
            advice="check the database's address, and that it is up",
        ) from cause


def _until_free(
    connection: Connection, config: Config, revision: str, role: str | None, patience: float
) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            # One transaction: a process that starts meanwhile never sees tables it may not read.
            with connection.begin():
                connection.execute(text(f"SET LOCAL lock_timeout = {WAITS_FOR_LOCKS * 1000:.0f}"))
                command.upgrade(config, revision)
                if role is not None:
                    grant(connection, role)
                return
        except OperationalError as cause:
            if getattr(cause.orig, "sqlstate", None) not in _IN_USE:
                raise
            if time.monotonic() >= deadline:
                raise StoreUnavailable(
                    "the database cannot be migrated: one of its tables is in use all the time",
                    advice="see who uses it (pg_stat_activity: long transactions, a backup), end "
                    "that, then repeat",
                ) from cause
            log.info("a table is in use; tries again", extra={"action": "migration_waits"})
        time.sleep(_PAUSE)
