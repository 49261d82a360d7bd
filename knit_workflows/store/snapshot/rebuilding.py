"""Writes what is left of a lost lineage into an empty database: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from knit_workflows.domain.tags import Tag
from knit_workflows.store import named_sql
from knit_workflows.store.data.tags import digest
from knit_workflows.store.snapshot import connected

_SQL: Final = named_sql.beside(__file__)
_BATCH: Final = 2_000


@dataclass(frozen=True)
class Lineage:
    """Rows as plain values, as `rebuilding.sql` names their columns.

    `plans` with their `inputs` and `outputs`, which have `tags` as pairs; `runs` without a Plan are
    those of uploads, and `data` without a position theirs.
    """

    plans: Sequence[dict[str, Any]]
    runs: Sequence[dict[str, Any]]
    data: Sequence[dict[str, Any]]
    edges: Sequence[dict[str, Any]]


class NotEmpty(Exception):
    """A database that has lineage already; `found` maps what to how many."""

    def __init__(self, found: dict[str, int]) -> None:
        super().__init__()
        self.found = found


def look(url: str) -> tuple[dict[str, int], dict[str, Any] | None]:
    """Gives what a database has, and what was once rebuilt in it, if it was.

    Raises:
        StoreUnavailable: the database does not answer, or has no tables.
    """
    with connected(url) as connection:
        return _found(connection), _rebuilt(connection)


def held_volumes(url: str) -> set[str]:
    """Gives the volumes that wait for uploads, and those that are about to be deleted.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    with connected(url) as connection:
        return {row[0] for row in connection.execute(_SQL["held"].encode())}


def write_lineage(
    url: str, lineage: Lineage, *, by: str, cause: str, uploaded: str, targets: dict[str, Any]
) -> None:
    """Writes all of it in one transaction, with a row of the audit log.

    `cause`: the words of each Run's history. `uploaded`: the name of the Plan of uploads. Nothing
    is queued, so nothing is executed. A second call is refused, since the database is not empty.

    Raises:
        StoreUnavailable: the database does not answer.
        NotEmpty: it is in use.
    """
    with connected(url) as connection, connection.transaction():
        connection.execute("LOCK TABLE plan, run, data IN SHARE ROW EXCLUSIVE MODE")
        if any((found := _found(connection)).values()):
            raise NotEmpty(found)
        _intern(connection, lineage.plans)
        for some in _batches(lineage.plans):
            for statement in ("plans", "inputs", "outputs"):
                connection.execute(_SQL[statement].encode(), {"plans": Jsonb(some)})
        for some in _batches(lineage.runs):
            params = {"runs": Jsonb(some), "cause": cause, "uploaded": uploaded}
            connection.execute(_SQL["runs"].encode(), params)
        for some in _batches(lineage.data):
            connection.execute(_SQL["data"].encode(), {"data": Jsonb(some)})
        for some in _batches(lineage.edges):
            connection.execute(_SQL["edges"].encode(), {"edges": Jsonb(some)})
        connection.execute(_SQL["asked_tags"].encode())
        connection.execute(_SQL["record"].encode(), {"by": by, "targets": Jsonb(targets)})


def _intern(connection: psycopg.Connection[Any], plans: Sequence[dict[str, Any]]) -> None:
    tags = {
        Tag(key, value)
        for plan in plans
        for mount in (*plan["inputs"], *plan["outputs"])
        for key, value in mount["tags"]
    }
    params = {
        "digests": [digest(one) for one in tags],
        "keys": [one.key for one in tags],
        "values": [one.value for one in tags],
    }
    connection.execute(_SQL["tags"].encode(), params)


def _batches(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left = iter(rows)
    while some := list(islice(left, _BATCH)):
        yield some


def _found(connection: psycopg.Connection[Any]) -> dict[str, int]:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        row = cursor.execute(_SQL["found"].encode()).fetchone()
    assert row is not None
    return dict(row._asdict())


def _rebuilt(connection: psycopg.Connection[Any]) -> dict[str, Any] | None:
    row = connection.execute(_SQL["rebuilt"].encode()).fetchone()
    return None if row is None else row[0]
