"""What is remembered of the content of Data: `backup.content` compares it with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import namedtuple_row

from knit_workflows.domain.instants import format_instant
from knit_workflows.store import named_sql
from knit_workflows.store.snapshot import connected

_SQL: Final = named_sql.beside(__file__)


@dataclass(frozen=True, slots=True)
class KnownContent:
    """A final Data, its volume, and the hash of its files when they were first read.

    `must_be_there`: its Run is done, a failed one need not have left it. `was_made`: by a Run of a
    Plan, and not pushed, imported or adopted. `sha256` and `recorded_at` are None if it was never
    read.
    """

    knit_id: str
    run_id: str
    volume: str
    owned: bool
    must_be_there: bool
    was_made: bool
    sha256: str | None
    recorded_at: str | None


@dataclass(frozen=True, slots=True)
class SeenContent:
    """What the files of a Data were found to be; `size`: bytes of their archive.

    Both are None if it was tried only: it cannot be read, or is not what it was.
    """

    knit_id: str
    sha256: str | None
    size: int | None


def known_contents(
    url: str, *, knit_ids: Sequence[str] | None = None, older_than: timedelta = timedelta(0)
) -> list[KnownContent]:
    """Gives all Data (or these) that were not compared for so long, first what was not tried.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    ids = None if knit_ids is None else list(knit_ids)  # a tuple would be a record
    params = {"knit_ids": ids, "older_than": older_than}
    with connected(url) as connection, connection.cursor(row_factory=namedtuple_row) as cursor:
        return [_known(row) for row in cursor.execute(_SQL["known"].encode(), params)]


def _known(row: Any) -> KnownContent:
    recorded_at = None if row.recorded_at is None else format_instant(row.recorded_at)
    return KnownContent(
        row.knit_id,
        row.run_id,
        row.volume,
        row.owned,
        row.must_be_there,
        row.was_made,
        row.sha256,
        recorded_at,
    )


def record_contents(url: str, seen: Sequence[SeenContent], *, by: str, replaces: bool) -> None:
    """Records what was read: of new Data, and that others are still the same, or were tried.

    `replaces`: what is recorded with another hash is replaced; else it stays as it is. Data that do
    not exist any more are left out. A second call only changes the instant.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    params = {
        "knit_ids": [one.knit_id for one in seen],
        "sha256": [one.sha256 for one in seen],
        "sizes": [one.size for one in seen],
        "by": by,
        "replaces": replaces,
    }
    with connected(url) as connection, connection.transaction():
        for statement in ("try", "record"):
            connection.execute(_SQL[statement].encode(), params)
