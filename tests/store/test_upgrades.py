"""Upgrades beside earlier programs that are at work: none breaks, and none waits for long."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any, Final

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from knit_workflows.domain.errors import StoreIsNewer, StoreUnavailable
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore, migrate
from knit_workflows.store.migrations import REVISION, SERVES
from knit_workflows.store.migrations.upgrade import upgrade
from knit_workflows.store.tables import metadata
from tests.bench import million
from tests.bench.upgrades import FOLDER, Locks, all_revisions, million_runs_at, step
from tests.notes import note
from tests.postgres import Databases, fetch
from tests.store.filled import Traffic, fill
from tests.store.migration_rules import LARGE, Findings, examined
from tests.waiting import PATIENCE

SIZE: Final = 20_000
BROKE: Final = {
    "0003": (
        "data keeps rows for fk_data_tag_knit_id",
        "data_tag is dropped",
        "tag keeps rows for fk_data_tag_tag_id",
    ),
    "0007": (
        "data has a new rule, ux_data_adopted",
        "run keeps rows for fk_hook_delivery_run_id",
    ),
}
STALLED: Final = {
    "0003": (
        "data is gone through while tables are locked",
        "ix_run_plan is built while run is locked",
        "ix_run_status is built while run is locked",
        "run is gone through while tables are locked",
    ),
    "0007": (
        "data is gone through while tables are locked",
        "ux_data_adopted is built while data is locked",
    ),
}
"""What revisions did to others before version 0.1.0, and no later one may do."""


SCAN: Final = ("run is gone through while tables are locked",)


def stepped(url: str, revision: str) -> Findings:
    """Brings a database to the next revision; gives what that has meant."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        driver: Any = connection.connection.driver_connection
        return examined(driver, lambda: command.upgrade(config, revision))


@pytest.mark.patient
def test_no_revision_stalls_anybody_or_breaks_whom_it_serves(databases: Databases) -> None:
    url = databases.empty()
    first, *later = all_revisions()
    upgrade(url, lock=1, folder=FOLDER, revision=first)
    fill(url, 2 * LARGE)
    for revision in later:
        found = stepped(url, revision)
        assert found.stalls == STALLED.get(revision, ()), revision
        assert revision not in BROKE or found.breaks == BROKE[revision]
        assert not found.breaks or revision <= SERVES, (
            f"{revision} breaks programs of {SERVES}, which it serves: {found.breaks}; leave that "
            "to a later revision, or raise SERVES to this one"
        )
    databases.drop(url)


@pytest.mark.patient
def test_work_goes_on_while_a_database_is_brought_up_from_the_first_revision(
    databases: Databases,
) -> None:
    """Statements that were right at the first revision are right at all others, all the time."""
    url = databases.empty()
    first, *later = all_revisions()
    upgrade(url, lock=1, folder=FOLDER, revision=first)
    fill(url, SIZE)
    made: list[str] = []
    for revision in later:
        traffic, locks = Traffic(url), Locks(url)
        with traffic.at_work(), locks.watched():
            traffic.is_flowing()
            begun = time.monotonic()
            upgrade(url, lock=1, folder=FOLDER, revision=revision)
            took = time.monotonic() - begun
            traffic.is_flowing()
        print(f"to {revision} in {took:.2f} s, waited at most", traffic.waits(), locks.seen)
        assert traffic.problems == [], revision
        # Nobody waits for ever; what is gone through under a lock is found by `examined`.
        assert max(traffic.longest.values()) < PATIENCE, (revision, traffic.waits())
        made += traffic.made
    [kept] = fetch(
        url,
        "SELECT count(*) AS n, count(timestamp) AS stamped, min(state) AS state FROM run"
        " JOIN data USING (run_id) JOIN run_event USING (run_id, generation), transfer"
        " WHERE cause = 'traffic' AND run.status = 'done' AND transfer_id = 'bulk1'",
    )
    assert kept == {"n": len(made), "stamped": len(made), "state": "opening"}
    assert fetch(url, "SELECT count(*) AS n FROM run") == [{"n": SIZE + len(made)}]
    databases.drop(url)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_million_runs_are_brought_up_from_the_first_revision() -> None:
    """Nobody who reads or writes a row waits for long; what each step costs is noted."""
    first, *later = all_revisions()
    with million_runs_at(first) as url:
        for revision in later:
            cost = step(url, revision)
            with redirect_stdout(io.StringIO()) as figure:
                cost.figure(revision)
            note(figure.getvalue())
            assert cost.longest < PATIENCE, revision
        assert fetch(url, "SELECT count(*) AS n FROM run") == [{"n": million.SIZE}]
        assert fetch(url, "SELECT version_num AS n FROM alembic_version") == [{"n": REVISION}]


@pytest.fixture(scope="module")
def large(databases: Databases) -> Iterator[str]:
    """A database of the newest revision whose `run` and `data` are large; nobody changes it."""
    url = databases.empty()
    upgrade(url, lock=1, folder=FOLDER)
    fill(url, LARGE + 1)
    yield url
    databases.drop(url)


@pytest.mark.patient
@pytest.mark.parametrize(
    ("statement", "breaks", "stalls"),
    [
        ("ALTER TABLE run ADD COLUMN x JSONB", (), ()),
        ("ALTER TABLE run ADD COLUMN x TEXT NOT NULL DEFAULT ''", (), ()),
        ("ALTER TABLE run ADD COLUMN x INT DEFAULT 0 CHECK (x >= 0) NOT NULL", (), SCAN),
        ("CREATE TABLE more (run_id UUID PRIMARY KEY REFERENCES run ON DELETE CASCADE)", (), ()),
        ("DROP INDEX ix_run_status", (), ()),
        ("ALTER TABLE plan DROP COLUMN priority", ("plan.priority is dropped",), ()),
        ("ALTER TABLE run RENAME exit_code TO code", ("run.exit_code is renamed to code",), ()),
        ("ALTER TABLE discarded RENAME TO d", ("discarded is renamed to d",), ()),
        ("DROP TABLE warm_volume", ("warm_volume is dropped",), ()),
        (
            "ALTER TABLE discarded ADD COLUMN x TEXT NOT NULL",
            ("discarded.x is required, and has no default",),
            (),
        ),
        ("ALTER TABLE run ALTER exit_code SET NOT NULL", ("run.exit_code is required now",), SCAN),
        (
            "ALTER TABLE run ALTER generation DROP DEFAULT",
            ("run.generation has no default any more",),
            (),
        ),
        (
            "ALTER TABLE run ALTER generation TYPE BIGINT",
            ("run.generation is of another type: bigint",),
            ("run is written anew",),
        ),
        (
            "ALTER TABLE plan ADD CONSTRAINT ck_x CHECK (priority > -9)",
            ("plan has a new rule, ck_x",),
            (),
        ),
        (
            "CREATE UNIQUE INDEX ux_x ON plan (repository, image_tag)",
            ("plan has a new rule, ux_x",),
            (),
        ),
        (
            "CREATE TABLE x (run_id UUID CONSTRAINT fk_x REFERENCES run)",
            ("run keeps rows for fk_x",),
            (),
        ),
        (
            "ALTER TABLE transfer ADD COLUMN x UUID CONSTRAINT fk_x REFERENCES run",
            ("run keeps rows for fk_x",),
            (),
        ),
        (
            "ALTER TABLE run DROP CONSTRAINT uq_run_assignment",
            ("run has no rule uq_run_assignment any more",),
            (),
        ),
        ("DROP INDEX ux_data_adopted", ("data has no rule ux_data_adopted any more",), ()),
        ("DROP INDEX ix_discarded_at", (), ()),
        ("CREATE INDEX ix_x ON plan (priority)", (), ()),
        ("CREATE INDEX ix_x ON run (exit_code)", (), ("ix_x is built while run is locked",)),
        (
            "ALTER TABLE run ADD COLUMN x UUID DEFAULT gen_random_uuid()",
            (),
            ("run is written anew",),
        ),
        ("ALTER TABLE run ADD COLUMN x INT; UPDATE run SET x = 1", (), SCAN),
    ],
)
def test_what_a_revision_may_and_may_not_do(
    large: str, statement: str, breaks: tuple[str, ...], stalls: tuple[str, ...]
) -> None:
    with psycopg.connect(large) as connection:
        found = examined(connection, lambda: connection.execute(statement.encode()))
        connection.rollback()
    assert found.breaks == breaks
    # What writes a table anew goes through it too, which may be told besides.
    assert found.stalls == stalls or (stalls and {*stalls} < {*found.stalls} <= {*stalls, *SCAN})


def opened(url: str) -> PostgresStore:
    return PostgresStore(StoreSettings(url=SecretStr(url)))


@pytest.mark.parametrize(
    ("serves", "works"), [(REVISION, True), ("0001", True), ("9999", False), (None, False)]
)
async def test_a_store_works_with_a_newer_database_that_serves_it(
    databases: Databases, serves: str | None, works: bool
) -> None:
    """So do the migrations of its version, which leave it alone; the others refuse."""
    url = await databases.migrated()
    mark = f"'serves programs from revision {serves} on'" if serves else "NULL"
    fetch(url, f"COMMENT ON TABLE alembic_version IS {mark}")
    fetch(url, "UPDATE alembic_version SET version_num = '9999'")
    store = opened(url)
    if works:
        await store.open()
        await migrate(url)
    else:
        with pytest.raises(StoreIsNewer, match="revision 9999"):
            await store.open()
        with pytest.raises(StoreUnavailable, match="cannot be migrated"):
            await migrate(url)
    await store.aclose()
    assert fetch(url, "SELECT version_num AS n FROM alembic_version") == [{"n": "9999"}]
    databases.drop(url)


async def test_a_migrated_database_says_whose_programs_it_serves(url: str) -> None:
    # Programs of 0013 cannot read that: they would end all the same.
    assert "0014" <= SERVES <= REVISION
    assert fetch(
        url, "SELECT obj_description('alembic_version'::regclass, 'pg_class') AS says"
    ) == [{"says": f"serves programs from revision {SERVES} on"}]


def test_statements_name_the_columns_of_tables_that_they_give() -> None:
    """One prepared with * fails in earlier programs as soon as a later release adds a column."""
    unnamed = re.compile(rf"\bRETURNING \*|\bSELECT \* FROM ({'|'.join(metadata.tables)})\b")
    files = {one for one in FOLDER.parent.rglob("*.sql") if FOLDER not in one.parents}
    found = [one.name for one in files for _ in unnamed.finditer(one.read_text("utf-8"))]
    assert found == ["loading.sql"]  # a restore's own connection, which runs it once
