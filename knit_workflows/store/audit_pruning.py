"""`python -m knit_workflows.store.audit_pruning`: archives old rows of the audit log; removes them.

Only the owner of the table can do it, as whom neither API nor workers connect. `export` prints the
rows of requests before a time, one JSON object per line, and their number and digest at the end.
`remove` removes exactly those rows, if the digest is still theirs, and leaves a row that says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from knit_workflows.domain.instants import format_instant, parse_instant
from knit_workflows.settings import SettingsRefused, read_settings

METHOD: Final = "PRUNE"
"""Method of the rows that say what was removed; they themselves stay."""
YOUNGEST: Final = timedelta(days=30)
"""Nothing younger is removed: whoever does harm shall not also remove its record."""
_AT_ONCE: Final = 2000
"""Requests that are removed in one transaction, for which nothing can be recorded meanwhile."""
_ROWS: Final = """
SELECT a.entry_id, a.outcome_of, a.at, a.subject, a.actor, a.method, a.route, a.targets, a.address,
       a.status
  FROM audit a
  LEFT JOIN audit b ON b.entry_id = a.outcome_of
 WHERE coalesce(b.at, a.at) < %(before)s AND coalesce(b.method, a.method) <> %(method)s
 ORDER BY a.entry_id
"""
_OLD: Final = """
SELECT entry_id
  FROM audit
 WHERE outcome_of IS NULL AND at < %(before)s AND method <> %(method)s
 ORDER BY at
 LIMIT %(limit)s
"""
_RECORD: Final = """
INSERT INTO audit (at, subject, actor, method, route, targets)
SELECT date_trunc('milliseconds', clock_timestamp()), 'database:' || current_user, %(by)s,
       %(method)s, 'audit', %(targets)s
RETURNING entry_id
"""
_OUTCOME: Final = """
INSERT INTO audit (outcome_of, at, status)
VALUES (%(entry_id)s, date_trunc('milliseconds', clock_timestamp()), 200)
"""


class PruningRefused(Exception):
    """Nothing was removed; the message says why."""


def rows_before(connection: psycopg.Connection[Any], before: datetime) -> Iterator[str]:
    """Gives the rows of requests that began before a time, as lines, oldest first."""
    with (
        connection.transaction(),
        connection.cursor("audit_export", row_factory=dict_row) as cursor,
    ):
        cursor.execute(_ROWS, {"before": before, "method": METHOD})
        for row in cursor:
            row["at"] = format_instant(row["at"])
            yield json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def summary_of(lines: Iterator[str]) -> dict[str, Any]:
    """Gives the number of lines and the SHA-256 of their text, each with its line feed."""
    digest, count = hashlib.sha256(), 0
    for line in lines:
        digest.update(f"{line}\n".encode())
        count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def remove(connection: psycopg.Connection[Any], before: datetime, *, sha256: str, by: str) -> int:
    """Removes the rows that were exported, and records that; returns their number.

    The record is there before anything is removed, and its outcome at the end: one without an
    outcome was cut, and what it left is exported and removed by the next one.

    Args:
        connection: of the owner, in autocommit mode.
        before: when the requests began.
        sha256: the digest of the export.
        by: who does it.

    Raises:
        PruningRefused: the rows are others, some are too young, or this is not the owner.
    """
    if before > datetime.now(UTC) - YOUNGEST:
        raise PruningRefused(f"the rows of the last {YOUNGEST.days} days stay")
    found = summary_of(rows_before(connection, before))
    if found["sha256"] != sha256:
        raise PruningRefused(
            f"the {found['rows']} rows there are not those that were exported; export them again"
        )
    if not found["rows"]:
        return 0
    targets = {"before": format_instant(before), **{key: str(one) for key, one in found.items()}}
    try:
        with connection.transaction():
            _allow(connection, False)  # as it is: whoever may not alter the table is told here
            asked = {"by": by, "method": METHOD, "targets": Jsonb(targets)}
            row = connection.execute(_RECORD, asked).fetchone()
    except psycopg.errors.InsufficientPrivilege as cause:
        raise PruningRefused(
            "this role does not own the audit log; connect as its owner (KNIT_STORE__URL)"
        ) from cause
    while _remove_some(connection, before):
        pass
    assert row is not None
    connection.execute(_OUTCOME, {"entry_id": row[0]})
    rows: int = found["rows"]
    return rows


def _remove_some(connection: psycopg.Connection[Any], before: datetime) -> int:
    asked = {"before": before, "method": METHOD, "limit": _AT_ONCE}
    with connection.transaction():
        ids = [row[0] for row in connection.execute(_OLD, asked)]
        if ids:
            _allow(connection, True)
            connection.execute("DELETE FROM audit WHERE outcome_of = ANY(%s)", [ids])
            connection.execute("DELETE FROM audit WHERE entry_id = ANY(%s)", [ids])
            _allow(connection, False)
    return len(ids)


def _allow(connection: psycopg.Connection[Any], allowed: bool) -> None:
    """Lets this transaction remove rows; others cannot even add any until it ends."""
    verb = "DISABLE" if allowed else "ENABLE"
    connection.execute(f"ALTER TABLE audit {verb} TRIGGER audit_is_append_only")


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError as cause:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 2026-01-02T00:00:00Z") from cause


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m knit_workflows.store.audit_pruning", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="print the rows; nothing is changed")
    removal = commands.add_parser("remove", help="remove the rows that were exported")
    for one in (export, removal):
        one.add_argument("--before", type=_instant, required=True, metavar="TIME")
    removal.add_argument("--sha256", required=True, help="what the export printed at its end")
    removal.add_argument("--by", required=True, metavar="NAME", help="who does it")
    return parser


def _export(connection: psycopg.Connection[Any], before: datetime) -> None:
    def printed() -> Iterator[str]:
        for line in rows_before(connection, before):
            sys.stdout.write(f"{line}\n")
            yield line

    sys.stdout.write(f"{json.dumps(summary_of(printed()))}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports, or removes; says in words why not."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        url = read_settings().store.url.get_secret_value()
    except SettingsRefused as refused:
        parser.error(str(refused))
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            if options.command == "export":
                _export(connection, options.before)
            else:
                count = remove(connection, options.before, sha256=options.sha256, by=options.by)
                sys.stdout.write(f"{json.dumps({'removed': count})}\n")
    except PruningRefused as refused:
        parser.exit(1, f"error: {refused}\n")
    except psycopg.Error as error:
        parser.exit(1, f"error: the database refuses it: {error}\n")


if __name__ == "__main__":
    main()
