"""Runs Alembic on one locked connection."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.store.migrations.grants import grant

_one_at_a_time: Final = threading.Lock()
"""Alembic keeps the running migration in globals: two threads must not share them."""


def upgrade(url: str, *, lock: int, folder: Path, application_role: str | None = None) -> None:
    """Upgrades to the newest revision and grants, or does neither; holds the lock `lock`."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    try:
        with _one_at_a_time, engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": lock})
            connection.commit()  # the lock is the session's, and stays
            config.attributes["connection"] = connection
            # One transaction: a process that starts meanwhile never sees tables it may not read.
            with connection.begin():
                command.upgrade(config, "head")
                if application_role is not None:
                    grant(connection, application_role)
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
