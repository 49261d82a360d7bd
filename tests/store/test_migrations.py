"""Migrations: they arrive at `tables`, may be repeated, and are asked for when missing."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import create_engine

from knit_workflows.domain.data import DataQuery
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.runs.run import RunQuery
from knit_workflows.domain.tags import Tag
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore, migrate, migrations
from knit_workflows.store.migrations import upgrade as upgrades
from knit_workflows.store.migrations.upgrade import upgrade
from knit_workflows.store.tables import metadata
from tests.bench.upgrades import FOLDER, all_revisions
from tests.postgres import Databases, fetch
from tests.waiting import wait_until


def opened(url: str) -> PostgresStore:
    return PostgresStore(StoreSettings(url=SecretStr(url)))


def test_the_migrations_arrive_at_the_tables(url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_revision_a_store_asks_for_is_the_newest() -> None:
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.REVISION


@pytest.mark.patient
async def test_migrating_at_once_and_again_is_fine(databases: Databases) -> None:
    url = databases.empty()
    await asyncio.gather(*(migrate(url) for _ in range(3)))
    await migrate(url)
    await migrate(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with psycopg.connect(url) as connection:
        plans = connection.execute("SELECT name FROM plan ORDER BY name").fetchall()
    assert plans == [("knit#imported",), ("knit#uploaded",)]
    databases.drop(url)


ROWS = """
INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
SELECT gen_random_uuid(), plan_id, 'done', now(), now() FROM plan, generate_series(1, 3)
 WHERE name = 'knit#uploaded';
INSERT INTO run_event (run_id, generation, at, to_status, cause)
SELECT run_id, 1, now(), 'done', 'test' FROM run;
INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
SELECT gen_random_uuid(), run_id, output_id, run_id, now() FROM run, plan_output
 WHERE path = '/upload';
INSERT INTO tag (digest, key, value) VALUES (sha256('k\\000v'), 'k', 'v');
INSERT INTO data_tag (tag_id, knit_id) SELECT tag_id, knit_id FROM tag, data;
"""


@pytest.mark.patient
async def test_rows_of_the_first_revision_are_kept_by_every_later_one(
    databases: Databases,
) -> None:
    """One revision after the other, as knits that were upgraded each time have done it."""
    url = databases.empty()
    first, *later = all_revisions()
    upgrade(url, lock=1, folder=FOLDER, revision=first)
    with psycopg.connect(url) as connection:
        connection.execute(ROWS)
    for revision in later:
        upgrade(url, lock=1, folder=FOLDER, revision=revision)
    store = opened(url)
    await store.open()
    found = await store.data.find(DataQuery(tags=(Tag("k", "v"),)))
    assert len(found) == len(await store.runs.find(RunQuery())) == 3
    await store.aclose()
    databases.drop(url)


@pytest.mark.patient
def test_a_migration_lets_others_pass_while_somebody_uses_a_table(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long write must not make everybody wait behind the migration; it tries again."""
    monkeypatch.setattr(upgrades, "WAITS_FOR_LOCKS", 0.05)
    monkeypatch.setattr(upgrades, "_PAUSE", 0.01)
    url = databases.empty()
    upgrade(url, lock=1, folder=FOLDER, revision=all_revisions()[-2])
    with psycopg.connect(url) as reader, psycopg.connect(url, autocommit=True) as other:
        tables = reader.execute(
            "SELECT format('LOCK TABLE %I IN ROW EXCLUSIVE MODE', tablename)"
            "  FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        for [lock] in tables:  # whichever the newest migration changes
            reader.execute(lock)
        with pytest.raises(StoreUnavailable, match="in use all the time"):
            upgrade(url, lock=1, folder=FOLDER, patience=0)
        with ThreadPoolExecutor() as threads:
            migrating = threads.submit(upgrade, url, lock=1, folder=FOLDER)
            for _ in range(20):
                other.execute("SELECT 1 FROM run")
            assert not migrating.done()
            reader.rollback()
            migrating.result()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (
            migrations.REVISION,
        )
    databases.drop(url)


@pytest.mark.patient
def test_what_is_written_while_tags_are_written_anew_is_kept(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revision 0003 copies a table: a tag of a change that had begun before is in the copy."""
    monkeypatch.setattr(upgrades, "WAITS_FOR_LOCKS", 60)
    url = databases.empty()
    upgrade(url, lock=1, folder=FOLDER, revision="0002")
    with psycopg.connect(url) as writer, ThreadPoolExecutor() as threads:
        writer.execute(ROWS)
        writer.commit()
        writer.execute(
            """WITH made AS (INSERT INTO tag (digest, key, value)
                             VALUES (sha256('late'), 'k', 'late') RETURNING tag_id)
               INSERT INTO data_tag (tag_id, knit_id) SELECT tag_id, knit_id FROM made, data"""
        )
        migrating = threads.submit(upgrade, url, lock=1, folder=FOLDER, revision="0003")
        with pytest.raises(TimeoutError):
            migrating.result(timeout=1)
        writer.commit()
        migrating.result()
        counted = writer.execute("SELECT count(timestamp) FROM data_tag").fetchone()
    assert counted == (6,)
    databases.drop(url)


TOUCH = """
WITH cur AS MATERIALIZED (SELECT run_id FROM run FOR NO KEY UPDATE)
UPDATE run SET updated_at = now() FROM cur WHERE run.run_id = cur.run_id
"""
"""As a Run is moved: its row is locked, then written."""


@pytest.mark.parametrize(
    ("revision", "in_use", "before", "statement", "repeats"),
    [
        ("0003", "data_tag", "SELECT", TOUCH, False),
        ("0003", "data_tag", "SELECT 1 FROM run", TOUCH, True),
        ("0007", "run_event", "SELECT", "SELECT 1 FROM run, data", False),
    ],
)
@pytest.mark.patient
def test_a_migration_comes_through_among_those_who_wait_for_it(
    databases: Databases,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    revision: str,
    in_use: str,
    before: str,
    statement: str,
    repeats: bool,
) -> None:
    """It must not wait in turn for what they hold; where that cannot be helped, it begins anew."""
    monkeypatch.setattr(upgrades, "WAITS_FOR_LOCKS", 60)
    monkeypatch.setattr(upgrades, "_PAUSE", 0.01)
    caplog.set_level(logging.INFO, upgrades.__name__)
    url = databases.empty()
    upgrade(url, lock=1, folder=FOLDER, revision=f"{int(revision) - 1:04}")
    with psycopg.connect(url) as other, ThreadPoolExecutor() as threads:
        other.execute(ROWS)
        other.execute("SET deadlock_timeout = '1h'")  # it is the migration that notices
        other.commit()
        other.execute(before)
        with psycopg.connect(url) as reader:
            reader.execute(f"LOCK TABLE {in_use} IN ACCESS SHARE MODE")
            migrating = threads.submit(upgrade, url, lock=1, folder=FOLDER, revision=revision)
            wait_until(lambda: waiting(url) == 1)
            doing = threads.submit(lambda: (other.execute(statement), other.commit()))
            wait_until(lambda: waiting(url) == 2)
        migrating.result()
        doing.result()
    assert ("tries again" in caplog.text) == repeats
    databases.drop(url)


def waiting(url: str) -> int:
    """Counts those who wait for a table."""
    [row] = fetch(
        url,
        "SELECT count(*) AS n FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE datname = current_database() AND locktype = 'relation' AND NOT granted",
    )
    return int(row["n"])


@pytest.mark.patient
async def test_a_store_on_an_empty_database_asks_for_the_migrations(databases: Databases) -> None:
    url = databases.empty()
    store = opened(url)
    with pytest.raises(StoreUnavailable) as failure:
        await store.open()
    assert "migrations" in failure.value.advice
    await store.aclose()
    databases.drop(url)


async def test_a_store_refuses_tables_of_a_revision_that_does_not_serve_it(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "COMMENT ON TABLE alembic_version IS 'serves programs from revision 9999 on'"
        )
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    store = opened(url)
    with pytest.raises(StoreUnavailable, match="9999"):
        await store.open()
    await store.aclose()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    store = opened("postgresql://127.0.0.1:1/nowhere")
    with pytest.raises(StoreUnavailable):
        await store.open()
    with pytest.raises(StoreUnavailable):
        await migrate("postgresql://127.0.0.1:1/nowhere")
