"""Reads the database at one instant, while others write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row

from knit_workflows.domain.errors import StoreMismatch
from knit_workflows.domain.instants import format_instant
from knit_workflows.store import named_sql
from knit_workflows.store.migrations import REVISION
from knit_workflows.store.snapshot import TABLES, connected

_SQL: Final = named_sql.beside(__file__)
_LINES: Final = 1000


def read_database(url: str) -> Iterator[dict[str, Any] | bytes]:
    """Gives the database at one instant: messages, and content after those that announce some.

    ```
    {"at", "revision", "under_way"}
    {"table", "columns"}, content, {"rows"}     per table, in an order in which they can be loaded
    {"sequences": {name: number}}
    {"volumes"}, content                        a line of JSON per final volume
    {"end"}
    ```
    It is one transaction, which reads and locks out nobody but migrations. A second call gives
    another instant.

    Raises:
        StoreUnavailable: the database does not answer.
        StoreMismatch: it is of another revision than this knit.
    """
    with connected(url) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Else a scan of a large table may begin in its middle, and no piece of it be as before.
        connection.execute("SET LOCAL synchronize_seqscans = off")
        # Before the snapshot: a table that is altered in between would be of another revision.
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in TABLES)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
        about = _rows(connection, "about")[0]
        _require_known(about.revision)
        under_way = _rows(connection, "under_way")[0].count
        yield {
            "at": format_instant(about.at),
            "revision": about.revision,
            "under_way": under_way,
        }
        for name, columns in TABLES:
            yield {"table": name, "columns": columns}
            yield from _copied(connection, name, columns)
        yield {"sequences": {one.name: one.last_value for one in _rows(connection, "sequences")}}
        yield {"volumes": True}
        yield from _volumes(connection)
        yield {"end": True}


def _require_known(revision: str) -> None:
    """Refuses tables that this knit does not know: some might be left out without a word."""
    if revision != REVISION:
        raise StoreMismatch(
            f"the database has revision {revision}, this knit knows revision {REVISION}",
            advice="complete the upgrade, or use the knit that the database is of; then repeat",
        )


def still_there(url: str, knit_ids: Sequence[str]) -> set[str]:
    """Gives those of these Data that are neither deleted nor purged; raises as above."""
    with connected(url) as connection:
        found = connection.execute(_SQL["still_there"].encode(), {"knit_ids": list(knit_ids)})
        return {row[0] for row in found}


def _rows(connection: psycopg.Connection[Any], name: str) -> list[Any]:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(_SQL[name].encode()).fetchall()


def _copied(
    connection: psycopg.Connection[Any], name: str, columns: Sequence[str]
) -> Iterator[dict[str, Any] | bytes]:
    statement = sql.SQL("COPY {} ({}) TO STDOUT").format(
        sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor:
        gathered: list[bytes] = []
        size = 0
        with cursor.copy(statement) as copy:
            for block in copy:  # a row each
                gathered.append(bytes(block))
                size += len(block)
                if size >= 1 << 20:
                    yield b"".join(gathered)
                    gathered, size = [], 0
        if gathered:
            yield b"".join(gathered)
        yield {"rows": cursor.rowcount}


def _volumes(connection: psycopg.Connection[Any]) -> Iterator[bytes]:
    with connection.cursor("volumes", row_factory=dict_row) as cursor:
        cursor.itersize = _LINES
        cursor.execute(_SQL["volumes"].encode())
        while rows := cursor.fetchmany(_LINES):
            yield b"".join(json.dumps(row).encode() + b"\n" for row in rows)
