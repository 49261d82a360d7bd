"""Loads a database that was read into an empty one: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from knit_workflows import names
from knit_workflows.domain.runs.run import LOST
from knit_workflows.store import named_sql
from knit_workflows.store.snapshot import LEFT_OUT, TABLES, connected

_SQL: Final = named_sql.beside(__file__)
_CAUSE: Final = "restored from a backup"


@dataclass(frozen=True)
class Destined:
    """What a database is found to be: `found` maps what it has already to how many.

    `restored` is the set that was loaded here, if one was.
    """

    revision: str | None
    found: dict[str, int]
    restored: str | None


def look(url: str) -> Destined:
    """Says whether a database can take a backup; raises StoreUnavailable."""
    with connected(url) as connection:
        return _look(connection)


def load_database(url: str, frames: Iterator[dict[str, Any] | bytes]) -> dict[str, int]:
    """Loads what `read_database` gave, in one transaction, and gives the rows of each table.

    Before the tables comes `{"set", "at", "revision", "by", "gone"}`, at the end
    `{"sequences"}`. Runs that were under way have failed, so that they can be retried; those that
    wait are admitted anew, and write into new volumes; the Data in `gone` are purged, and all
    volumes have knit's own names.

    A second call is refused, since the database is not empty any more.

    Raises:
        StoreUnavailable: the database does not answer.
        NotEmpty: it is of another revision, or is in use.
    """
    with connected(url) as connection, connection.transaction():
        about = next(frames)
        assert isinstance(about, dict)
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(_NAMES))
        found = _look(connection)
        if found.revision != about["revision"] or any(found.found.values()):
            raise NotEmpty(found)
        _empty(connection)
        rows = _load_tables(connection, frames)
        _settle(connection, about)
        return rows


class NotEmpty(Exception):
    """A database that cannot take a backup; `found` says why."""

    def __init__(self, found: Destined) -> None:
        super().__init__()
        self.found = found


_NAMES: Final = sql.SQL(", ").join(sql.Identifier(name) for name, _ in TABLES)


def _look(connection: psycopg.Connection[Any]) -> Destined:
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return Destined(None, {}, None)
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        [revision] = cursor.execute(_SQL["revision"].encode()).fetchone() or (None,)
        row = cursor.execute(_SQL["found"].encode()).fetchone()
        restored = cursor.execute(_SQL["restored"].encode()).fetchone()
    assert row is not None
    return Destined(revision, row._asdict(), None if restored is None else restored[0])


def _empty(connection: psycopg.Connection[Any]) -> None:
    """Removes what a new installation has by itself; what was recorded in it is set aside."""
    connection.execute(_SQL["keep_audit"].encode())
    connection.execute("ALTER TABLE audit DISABLE TRIGGER audit_is_append_only")
    for name, _ in reversed(TABLES):
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)))
    for name in LEFT_OUT & {"transfer", "warm_volume", "discarded"}:
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)))


def _load_tables(
    connection: psycopg.Connection[Any], frames: Iterator[dict[str, Any] | bytes]
) -> dict[str, int]:
    loaded: dict[str, int] = {}
    with connection.cursor() as cursor:
        for frame in frames:
            assert isinstance(frame, dict)
            if "table" in frame:
                loaded[frame["table"]] = _load_table(cursor, frame, frames)
            for name, value in frame.get("sequences", {}).items():
                connection.execute("SELECT setval(%s::regclass, %s)", [name, value])
    return loaded


def _load_table(
    cursor: psycopg.Cursor[Any],
    head: dict[str, Any],
    frames: Iterator[dict[str, Any] | bytes],
) -> int:
    """Loads the rows of a table and gives their number; raises ValueError if some are missing."""
    expected = None
    with cursor.copy(_copy(head["table"], head["columns"])) as copy:
        for frame in frames:
            if isinstance(frame, bytes):
                copy.write(frame)
            else:
                expected = frame["rows"]
                break
    if cursor.rowcount != expected:
        raise ValueError(f"{head['table']}: {cursor.rowcount} rows, not {expected}")
    return cursor.rowcount


def _copy(table: str, columns: list[str]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


def _settle(connection: psycopg.Connection[Any], about: dict[str, Any]) -> None:
    """Makes what was loaded true of this installation, and wakes those who act on it."""
    row = connection.execute("SELECT coalesce(max(entry_id), 0) FROM audit").fetchone()
    assert row is not None
    connection.execute(_SQL["append_audit"].encode(), {"after": row[0]})
    connection.execute(
        "SELECT setval(pg_get_serial_sequence('audit', 'entry_id'),"
        " greatest((SELECT max(entry_id) FROM audit), 1))"
    )
    connection.execute("ALTER TABLE audit ENABLE TRIGGER audit_is_append_only")
    message = (
        f"under way when the backup of {about['at']} was taken; its container and its outputs are "
        "not part of that: knit run retry"
    )
    exit_ = {"exit_code": LOST.code, "exit_message": message, "cause": _CAUSE}
    connection.execute(_SQL["fail_under_way"].encode(), exit_)
    connection.execute(_SQL["queue_waiting"].encode())
    connection.execute(_SQL["forget_stops"].encode())
    connection.execute(_SQL["purge_missing"].encode(), {"knit_ids": about["gone"]})
    connection.execute(_SQL["own_volumes"].encode(), {"prefix": names.volume("")})
    targets = Jsonb({"set": about["set"], "at": about["at"]})
    connection.execute(_SQL["record"].encode(), {"by": about["by"], "targets": targets})
    connection.execute("SELECT pg_notify(%s, '')", [names.OUTBOX_CHANNEL])
