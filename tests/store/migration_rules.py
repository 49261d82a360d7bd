"""What a revision of the database does to programs of the one before that are at work.

`examined` looks at the catalogs and at what the transaction has done, not at the text of
statements: PostgreSQL alone knows which `ALTER TABLE` writes a table anew. There are two kinds:

* *breaks*: an earlier statement that was right fails, or cannot be carried out any more;
* *stalls*: somebody has to wait for as long as it takes to go through a large table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import namedtuple_row

LARGE: Final = 1_000
"""Rows from which on a table is large; more are neither read nor written under a lock."""

_TABLES: Final = """
SELECT oid, relname AS name, relfilenode AS file FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
"""
_COLUMNS: Final = """
SELECT attrelid AS oid, attnum AS position, attname AS name, attisdropped AS dropped,
       atttypid::regtype::text || coalesce(':' || nullif(atttypmod, -1), '') AS type,
       attnotnull AS required, atthasdef OR attidentity <> '' AS filled
  FROM pg_attribute WHERE attrelid = ANY (%s) AND attnum > 0
"""
_INDEXES: Final = """
SELECT indrelid AS oid, indexrelid::regclass::text AS name, indisunique AS refuses,
       indkey::int2[]::int[] AS positions, NULL AS keeps
  FROM pg_index WHERE indrelid = ANY (%s)
"""
_CONSTRAINTS: Final = """
SELECT conrelid AS oid, conname AS name, contype IN ('c', 'f', 'x') AS refuses,
       coalesce(conkey::int[], '{}') AS positions,
       CASE WHEN contype = 'f' AND confdeltype IN ('a', 'r') THEN confrelid END AS keeps
  FROM pg_constraint WHERE conrelid = ANY (%s) AND contype <> 'n'
"""
_WORK: Final = """
SELECT relid AS oid,
       coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
       + n_tup_ins + n_tup_upd + n_tup_del AS rows
  FROM pg_stat_xact_all_tables WHERE relid = ANY (%s)
"""
_LOCKS: Final = """
SELECT relation AS oid, mode FROM pg_locks
 WHERE pid = pg_backend_pid() AND granted AND locktype = 'relation' AND relation = ANY (%s)
   AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


@dataclass(frozen=True)
class Findings:
    """`locks`: per table the strongest lock that was held until the end."""

    breaks: tuple[str, ...]
    stalls: tuple[str, ...]
    locks: dict[str, str]


@dataclass(frozen=True)
class _Schema:
    tables: dict[int, Any]
    columns: dict[tuple[int, int], Any]
    indexes: dict[tuple[int, str], Any]
    constraints: dict[tuple[int, str], Any]
    rows: dict[int, int]


def examined(connection: psycopg.Connection[Any], change: Callable[[], object]) -> Findings:
    """Makes a change within the transaction of a connection, and says what it means for others.

    The connection must have done nothing yet in its transaction.
    """
    before = _schema(connection)
    worked = _work(connection, before)
    change()
    after = _schema(connection, counted=False)
    done = {oid: rows - worked.get(oid, 0) for oid, rows in _work(connection, before).items()}
    locks: dict[str, str] = {}
    for row in _rows(connection, _LOCKS, before.tables):
        strongest = max(locks.get(before.tables[row.oid].name, ""), row.mode, key=_strength)
        locks[before.tables[row.oid].name] = strongest
    return Findings(
        tuple(sorted(_breaks(before, after))),
        tuple(sorted(_stalls(before, after, done, locks))),
        locks,
    )


def _strength(mode: str) -> int:
    return (
        "",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ).index(mode)


def _schema(connection: psycopg.Connection[Any], *, counted: bool = True) -> _Schema:
    tables = {one.oid: one for one in _rows(connection, _TABLES)}
    rows = {}
    for oid, table in tables.items() if counted else ():
        [[rows[oid]]] = connection.execute(f'SELECT count(*) FROM "{table.name}"'.encode())
    return _Schema(
        tables,
        {(one.oid, one.position): one for one in _rows(connection, _COLUMNS, tables)},
        {(one.oid, one.name): one for one in _rows(connection, _INDEXES, tables)},
        {(one.oid, one.name): one for one in _rows(connection, _CONSTRAINTS, tables)},
        rows,
    )


def _work(connection: psycopg.Connection[Any], schema: _Schema) -> dict[int, int]:
    return {one.oid: one.rows for one in _rows(connection, _WORK, schema.tables)}


def _rows(
    connection: psycopg.Connection[Any], query: str, tables: dict[int, Any] | None = None
) -> list[Any]:
    parameters = None if tables is None else [list(tables)]
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute(query.encode(), parameters).fetchall()


def _breaks(before: _Schema, after: _Schema) -> Iterator[str]:
    for oid, table in before.tables.items():
        found = after.tables.get(oid)
        if found is None:
            yield f"{table.name} is dropped"
        elif found.name != table.name:
            yield f"{table.name} is renamed to {found.name}"
    for (oid, position), new in after.columns.items():
        if (table := before.tables.get(oid)) is None:
            continue
        old, name = before.columns.get((oid, position)), f"{table.name}.{new.name}"
        if old is None:
            if new.required and not new.filled:
                yield f"{name} is required, and has no default"
        elif not old.dropped:
            yield from _changed(f"{table.name}.{old.name}", old, new)
    for key, one in {**after.constraints, **after.indexes}.items():
        if key in before.constraints or key in before.indexes:
            continue
        if one.refuses and any((one.oid, p) in before.columns for p in one.positions):
            yield f"{before.tables[one.oid].name} has a new rule, {one.name}"
        elif one.keeps in before.tables:
            yield f"{before.tables[one.keeps].name} keeps rows for {one.name}"
    for key, one in before.indexes.items():
        # Whoever names its columns in ON CONFLICT needs it.
        if one.refuses and one.oid in after.tables and key not in after.indexes:
            yield f"{before.tables[one.oid].name} has no rule {one.name} any more"


def _changed(name: str, old: Any, new: Any) -> Iterator[str]:
    if new.dropped:
        yield f"{name} is dropped"
        return
    if new.name != old.name:
        yield f"{name} is renamed to {new.name}"
    if new.type != old.type:
        yield f"{name} is of another type: {new.type}"
    if new.required and not old.required:
        yield f"{name} is required now"
    if old.filled and not new.filled:
        yield f"{name} has no default any more"


def _stalls(
    before: _Schema, after: _Schema, done: dict[int, int], locks: dict[str, str]
) -> Iterator[str]:
    for oid, table in before.tables.items():
        found = after.tables.get(oid)
        if found is not None and before.rows[oid] > LARGE and found.file != table.file:
            yield f"{table.name} is written anew"
    for (oid, name), _ in after.indexes.items():
        if (oid, name) not in before.indexes and before.rows.get(oid, 0) > LARGE:
            yield f"{name} is built while {before.tables[oid].name} is locked"
    for oid, rows in done.items():
        if rows > LARGE and locks:
            yield f"{before.tables[oid].name} is gone through while tables are locked"
