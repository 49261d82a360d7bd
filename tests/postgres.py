"""Databases for tests: migrated once into a template, cloned, and emptied between two tests.

So are connections kept: a new one takes 15 ms of CPU until its server has learned the tables.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr

from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore, migrate

_TEMPLATE: Final = "knit_template"
_CATALOGS: Final[tuple[LiteralString, ...]] = (
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_db_role_setting",
    "pg_index",
    "pg_namespace",
    "pg_proc",
    "pg_trigger",
    "pg_type",
)


_WARM: Final = 4
"""So many connections of a store are kept for the next one: few tests need more at once."""
_CONNECTIONS: Final[dict[str, psycopg.Connection]] = {}


def connection_to(url: str) -> psycopg.Connection:
    """Gives a connection to a database that all tests of this process use, in autocommit mode."""
    connection = _CONNECTIONS.get(url)
    if connection is None or connection.closed:
        connection = _CONNECTIONS[url] = psycopg.connect(url, autocommit=True)
    return connection


def fetch(url: str, query: str, *parameters: Any) -> list[dict[str, Any]]:
    """Looks into a database behind the store's back."""
    connection = connection_to(url)
    try:
        cursor = connection.cursor(row_factory=dict_row).execute(query.encode(), parameters)
    except psycopg.OperationalError:
        if not connection.closed:
            raise
        # A test has killed it while nobody used it.
        cursor = connection_to(url).cursor(row_factory=dict_row).execute(query.encode(), parameters)
    return cursor.fetchall() if cursor.description else []


def blocks_somebody(url: str, connection: psycopg.Connection) -> bool:
    """Whether somebody waits for a lock that this connection holds, and not for just any lock.

    All databases of a server share one for NOTIFY, so others are seen waiting at any time.
    """
    waiting = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return bool(fetch(url, waiting, connection.info.backend_pid))


class Databases:
    """Makes databases on a running server.

    To clone the template and to drop the clone takes some 50 ms of CPU, and what PostgreSQL has to
    learn about a new database as much again; to empty one takes 3 ms.
    """

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._numbers = itertools.count(1)
        self._admin = psycopg.connect(admin_url, autocommit=True)
        self._template: _Contents | None = None
        self._unused: list[str] = []
        self._warm: dict[str, list[psycopg.AsyncConnection[Any]]] = {}
        # Nothing here outlives the session; making a database is ten times faster like this.
        # Statistics that come at odd moments would let a test pass or fail by chance.
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
            self._admin.execute(f"ALTER SYSTEM SET {setting} = off")
        self._admin.execute("SELECT pg_reload_conf()")

    def url(self, database: str) -> str:
        return urlsplit(self._admin_url)._replace(path=f"/{database}").geturl()

    def empty(self) -> str:
        """Makes an empty database, gives its URL."""
        return self._create("template1")

    async def migrated(self) -> str:
        """Gives the URL of a database as the migrations leave it, with no user's rows."""
        if self._template is None:
            self._admin.execute(f"CREATE DATABASE {_TEMPLATE}")
            await migrate(self.url(_TEMPLATE))
            with psycopg.connect(self.url(_TEMPLATE)) as connection:
                self._template = _Contents(connection)
        return self._unused.pop() if self._unused else self._create(_TEMPLATE)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[tuple[PostgresStore, str]]:
        """Gives a new store on a migrated database, whose connections are those of the last one."""
        url = await self.migrated()
        store = PostgresStore(StoreSettings(url=SecretStr(url), pool_size=16))
        idle = store._db._idle
        idle += self._warm.pop(url, [])
        await store.open()
        yield store, url
        warm = [connection for connection in idle[-_WARM:] if not connection.closed]
        del idle[-_WARM:]
        await store.aclose()
        self.give_back(url, warm)

    def give_back(self, url: str, warm: Sequence[psycopg.AsyncConnection[Any]] = ()) -> None:
        """Ends a test's use of a migrated database: it is emptied, or dropped if it was altered.

        All connections to it are ended, but for those that stay warm.
        """
        assert self._template is not None
        self._cool(url)  # a test that took the database alone has not taken them over
        self._warm[url] = list(warm)
        try:
            sound = self._template.restore(
                connection_to(url), [one.info.backend_pid for one in warm]
            )
        except psycopg.OperationalError:  # the test has killed all connections
            sound = False
        if sound:
            self._unused.append(url)
        else:
            self.drop(url)

    def drop(self, url: str) -> None:
        if connection := _CONNECTIONS.pop(url, None):
            connection.close()
        self._cool(url)
        name = urlsplit(url).path.lstrip("/")
        self._admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        for url in list(self._warm):
            self._cool(url)
        while _CONNECTIONS:
            _CONNECTIONS.popitem()[1].close()
        self._admin.close()

    def _cool(self, url: str) -> None:
        for connection in self._warm.pop(url, ()):
            connection.pgconn.finish()

    def _create(self, template: str) -> str:
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        # The other way, through the log, writes twice as much.
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)


class _Contents:
    """What is in the template: the rows, the places of the sequences, the state of the schema."""

    def __init__(self, connection: psycopg.Connection) -> None:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        ).fetchall()
        sequences = connection.execute(
            "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'"
        ).fetchall()
        self._delete = sql.SQL(";").join(
            [
                # Without triggers and foreign keys, so in any order.
                sql.SQL("SET LOCAL session_replication_role = replica"),
                *(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for (name,) in tables),
                *(self._place(connection, sql.Identifier(name)) for (name,) in sequences),
            ]
        )
        self._rows = {name: self._copied(connection, name) for (name,) in tables}
        self._schema = self._state(connection)

    def restore(self, connection: psycopg.Connection, others: Sequence[int]) -> bool:
        """Makes a clone equal to the template, without connections but this and those others.

        False: its schema is another.
        """
        connection.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL (%s)",
            [list(others)],
        )
        if self._state(connection) != self._schema:
            return False
        with connection.transaction():
            connection.execute(self._delete)
            for table, rows in self._rows.items():
                if rows:
                    copy = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
                    with connection.cursor().copy(copy) as into:
                        into.write(rows)
        return True

    @staticmethod
    def _copied(connection: psycopg.Connection, table: str) -> bytes:
        copy = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))
        with connection.cursor().copy(copy) as out:
            return b"".join(out)

    @staticmethod
    def _place(connection: psycopg.Connection, sequence: sql.Identifier) -> sql.Composed:
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sequence)
        place = connection.execute(query).fetchone()
        assert place is not None
        return sql.SQL("SELECT setval({}, {}, {})").format(
            sql.Literal(sequence.as_string(connection)), *map(sql.Literal, place)
        )

    @staticmethod
    def _state(connection: psycopg.Connection) -> tuple[object, ...] | None:
        """Changes with each change of the schema, be it to what it has been before.

        Whatever is created or altered has a newer transaction in a catalog, whatever is dropped is
        missing there.
        """
        counts = (f"(SELECT (count(*), max(xmin::text::bigint)) FROM {one})" for one in _CATALOGS)
        return connection.execute(sql.SQL(f"SELECT {', '.join(counts)}")).fetchone()
