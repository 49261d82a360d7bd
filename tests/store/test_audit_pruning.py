"""Old rows of the audit log: archived, removed by the owner alone, and recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from knit_workflows.store import audit_pruning, migrate
from knit_workflows.store.audit_pruning import PruningRefused, remove, rows_before, summary_of
from tests.store.test_application_role import Roles, roles  # noqa: F401  a fixture

BEFORE = datetime.now(UTC) - timedelta(days=100)


def fill(url: str) -> None:
    """A request a day for 200 days, each with its outcome on the day after, and an old pruning."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO audit (at, actor, method, targets)"
            " SELECT now() - make_interval(days => d), 'ä', 'PUT', '{\"run_id\": \"1\"}'"
            " FROM generate_series(200, 1, -1) d"
        )
        connection.execute(
            "INSERT INTO audit (outcome_of, at, status)"
            " SELECT entry_id, at + interval '1 day', 200 FROM audit WHERE outcome_of IS NULL"
        )
        connection.execute(
            "INSERT INTO audit (at, method) VALUES (now() - interval '190 days', 'PRUNE')"
        )


def counts(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT coalesce(b.method, a.method), count(*) FROM audit a"
            " LEFT JOIN audit b ON b.entry_id = a.outcome_of GROUP BY 1"
        )
        return {row[0]: row[1] for row in rows}


def run(url: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "knit_workflows.store.audit_pruning", *arguments],
        env={"KNIT_STORE__URL": url, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.patient
def test_what_was_exported_is_removed_and_that_is_recorded(url: str) -> None:
    fill(url)
    before = BEFORE.isoformat()
    *lines, last = run(url, "export", "--before", before).stdout.splitlines()
    summary = json.loads(last)
    assert summary == summary_of(iter(lines))
    assert summary["rows"] == len(lines) == 2 * 100  # with an outcome each, though it is younger
    assert json.loads(lines[0])["actor"] == "ä"
    assert counts(url) == {"PUT": 400, "PRUNE": 1}
    words = ("remove", "--before", before, "--sha256", summary["sha256"], "--by", "mary")
    assert json.loads(run(url, *words).stdout) == {"removed": 200}
    assert counts(url) == {"PUT": 200, "PRUNE": 3}
    with psycopg.connect(url) as connection:
        (row,) = connection.execute(
            "SELECT a.actor, a.subject, a.route, a.targets, b.status FROM audit a"
            " JOIN audit b ON b.outcome_of = a.entry_id WHERE a.method = 'PRUNE'"
        ).fetchall()
        assert row[0] == "mary"
        assert row[1].startswith("database:")
        assert row[3]["sha256"] == summary["sha256"]
        assert row[3]["rows"] == "200"
        assert row[4] == 200
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute("DELETE FROM audit")
    said = run(url, *words, code=1).stderr
    assert "are not those that were exported" in said


def removed(url: str, before: datetime, by: str = "mary") -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        digest = summary_of(rows_before(connection, before))["sha256"]
        return remove(connection, before, sha256=digest, by=by)


@pytest.mark.patient
def test_one_that_is_cut_is_seen_and_the_next_goes_on(url: str, monkeypatch) -> None:
    """Its record has no outcome; every row is in the one export or in the other."""
    fill(url)
    monkeypatch.setattr(audit_pruning, "_AT_ONCE", 30)
    whole = audit_pruning._remove_some
    calls = []

    def cut(connection: Any, before: datetime) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(connection, before)

    monkeypatch.setattr(audit_pruning, "_remove_some", cut)
    with pytest.raises(KeyboardInterrupt):
        removed(url, BEFORE)
    assert counts(url) == {"PUT": 400 - 2 * 60, "PRUNE": 2}
    with (
        psycopg.connect(url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
    ):
        connection.execute("DELETE FROM audit")
    assert removed(url, BEFORE) == 200 - 2 * 60
    assert counts(url) == {"PUT": 200, "PRUNE": 4}
    assert removed(url, BEFORE) == 0
    assert counts(url) == {"PUT": 200, "PRUNE": 4}


@pytest.mark.patient
def test_what_is_young_stays(url: str) -> None:
    fill(url)
    with pytest.raises(PruningRefused, match="the last 30 days stay"):
        removed(url, datetime.now(UTC) - timedelta(days=29))
    assert counts(url) == {"PUT": 400, "PRUNE": 1}


@pytest.mark.patient
async def test_only_the_owner_can(roles: Roles) -> None:  # noqa: F811
    await migrate(roles.owner, application_role=roles.name)
    fill(roles.owner)
    with pytest.raises(PruningRefused, match="connect as its owner"):
        removed(roles.application, BEFORE)
    assert counts(roles.owner) == {"PUT": 400, "PRUNE": 1}
    with psycopg.connect(roles.owner) as connection:
        connection.execute(
            f'GRANT DELETE ON audit TO "{roles.name}"'  # type: ignore[call-overload]
        )
    with pytest.raises(PruningRefused, match="connect as its owner"):
        removed(roles.application, BEFORE)
