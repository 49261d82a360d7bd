"""Runs Alembic on one locked connection, beside processes that work with the database.

A database keeps, as a comment on Alembic's table, the oldest revision whose programs it serves:
these go on beside newer ones, and may be started again.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.store.connection import libpq_address
from knit_workflows.store.migrations import SERVES
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

_HEAD: Final = "head"
_MARK: Final = "serves programs from revision {} on"
_READ_MARK: Final = text("SELECT obj_description('alembic_version'::regclass, 'pg_class')")

_one_at_a_time: Final = threading.Lock()
"""Alembic keeps the running migration in globals: two threads must not share them."""


def upgrade(
    url: str,
    *,
    lock: int,
    folder: Path,
    application_role: str | None = None,
    revision: str = _HEAD,
    patience: float = PATIENCE,
) -> None:
    """Upgrades to a revision and grants, or does neither; holds the lock `lock`.

    A database of a newer knit that serves programs of this one is left as it is: so an earlier
    release can be put in place again.

    If a table is in use for longer than `WAITS_FOR_LOCKS`, or by those who wait for it in turn, it
    lets everybody pass, and begins anew.

    Raises:
        StoreUnavailable: the database does not answer, is of a newer knit and does not serve this
            one, or a table is in use all the time.
    """
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    # By libpq's own reading of the address: it may name several hosts.
    address = libpq_address(url)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(address), poolclass=NullPool
    )
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
                if revision == _HEAD and _is_served(connection, config):
                    log.info("the database is newer, and serves this knit")
                    return
                command.upgrade(config, revision)
                if revision == _HEAD:
                    mark = f"COMMENT ON TABLE alembic_version IS '{_MARK.format(SERVES)}'"
                    connection.execute(text(mark))
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


def _is_served(connection: Connection, config: Config) -> bool:
    """Says whether the database is of a newer knit, and says itself that it serves this one."""
    current = MigrationContext.configure(connection).get_current_revision()
    known = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
    if current is None or current in known:
        return False
    mark = connection.execute(_READ_MARK).scalar_one()
    return any(mark == _MARK.format(revision) for revision in known)
