"""The role as which knit's processes connect: rows it may change, the audit log it may not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from knit_workflows.domain.accounts.principals import AuditQuery, AuditRecord
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.tags import Tag
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore, RoleRefused, migrate
from tests.postgres import Databases

RECORD = AuditRecord("token:a", "a", "PUT", "/api/runs/{run_id}/abort", {"run_id": "1"}, "::1")


@dataclass(frozen=True)
class Roles:
    """A database, as its owner and as the application's role see it."""

    owner: str
    application: str
    name: str


@contextmanager
def _roles(databases: Databases) -> Iterator[Roles]:
    owner = databases.empty()
    name = f"knit-app {uuid4().hex[:8]}"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'sesame'")  # type: ignore[arg-type]
    parts = urlsplit(owner)
    host = parts.netloc.rpartition("@")[2]
    application = parts._replace(netloc=f"{name.replace(' ', '%20')}:sesame@{host}").geturl()
    yield Roles(owner, application, name)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f'DROP OWNED BY "{name}"')  # type: ignore[arg-type]
    databases.drop(owner)


@pytest.fixture
def roles(databases: Databases) -> Iterator[Roles]:
    """A role, and an empty database of the test's own."""
    with _roles(databases) as made:
        yield made


@pytest.fixture(scope="module")
async def served(databases: Databases) -> AsyncIterator[Roles]:
    """A migrated database with an entry, for tests that can change nothing there."""
    with _roles(databases) as made:
        await migrate(made.owner, application_role=made.name)
        with psycopg.connect(made.application, autocommit=True) as connection:
            connection.execute("INSERT INTO audit (at, actor) VALUES (now(), 'a')")
        yield made


@pytest.mark.patient
async def test_the_migration_grants_what_knit_needs(roles: Roles) -> None:
    """By its command, twice, as before each upgrade."""
    environment = {
        **os.environ,
        "KNIT_STORE__URL": roles.owner,
        "KNIT_STORE__APPLICATION_ROLE": roles.name,
    }
    for _ in range(2):
        command = [sys.executable, "-m", "knit_workflows.store"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    store = PostgresStore(StoreSettings(url=SecretStr(roles.application)))
    await store.open()
    knit_id = KnitId(str(uuid4()))
    await store.transfers.begin_upload("t", RunId(str(uuid4())), knit_id, actor="a")
    changed = await store.data.change_tags(knit_id, TagChange(add=frozenset({Tag("k", "v")})))
    assert Tag("k", "v") in changed.tags
    await store.transfers.closed("t")
    await store.audit.end(await store.audit.begin(RECORD), 200)
    [entry] = await store.audit.find(AuditQuery(), limit=2)
    assert (entry.record, entry.status) == (RECORD, 200)
    await store.aclose()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'somebody else'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "TRUNCATE audit CASCADE",
        "DROP TRIGGER audit_is_append_only ON audit",
        "ALTER TABLE audit DISABLE TRIGGER audit_is_append_only",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "DROP TABLE audit CASCADE",
        "ALTER TABLE audit RENAME TO other",
        "ALTER TABLE audit OWNER TO CURRENT_USER",
        "CREATE OR REPLACE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$",
        "DROP FUNCTION refuse_change_of_audit() CASCADE",
        "SET session_replication_role = replica",
        "CREATE RULE r AS ON INSERT TO audit DO INSTEAD NOTHING",
        "INSERT INTO audit (at) VALUES (now()) ON CONFLICT (entry_id) DO UPDATE SET actor = 'x'",
        "SELECT 1 FROM audit FOR UPDATE",
        "GRANT UPDATE ON audit TO CURRENT_USER",
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE token",
    ],
)
@pytest.mark.patient
async def test_the_application_cannot_touch_the_audit_log(served: Roles, statement: str) -> None:
    with psycopg.connect(served.application, autocommit=True) as connection:
        try:
            connection.execute(statement)  # type: ignore[call-overload]
        except psycopg.errors.InsufficientPrivilege:
            pass
        else:  # PostgreSQL grants nothing by that, and only warns
            assert statement.startswith("GRANT")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("UPDATE audit SET actor = 'b'")
        assert connection.execute("SELECT actor FROM audit").fetchall() == [("a",)]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit SET actor = 'b'", "DELETE FROM audit", "TRUNCATE audit"],
)
async def test_not_even_the_owner_changes_it_by_mistake(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO audit (at, actor) VALUES (now(), 'a')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute(statement)  # type: ignore[call-overload]
        assert connection.execute("SELECT actor FROM audit").fetchall() == [("a",)]


@pytest.mark.patient
async def test_rights_that_the_role_had_before_are_taken(roles: Roles) -> None:
    await migrate(roles.owner)
    with psycopg.connect(roles.owner, autocommit=True) as connection:
        connection.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{roles.name}"')  # type: ignore[arg-type]
    await migrate(roles.owner, application_role=roles.name)
    with psycopg.connect(roles.application, autocommit=True) as connection:
        for statement in ("DELETE FROM audit", "UPDATE audit SET actor = ''", "TRUNCATE audit"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
                connection.execute(statement)  # type: ignore[call-overload]


@pytest.mark.patient
async def test_a_role_from_which_nothing_could_be_kept_is_refused(roles: Roles) -> None:
    with psycopg.connect(roles.owner) as connection:
        row = connection.execute("SELECT current_user").fetchone()
        assert row is not None
    with pytest.raises(RoleRefused, match="superuser or may act as"):
        await migrate(roles.owner, application_role=row[0])
    with pytest.raises(RoleRefused, match="CREATE ROLE"):
        await migrate(roles.owner, application_role="nobody")


@pytest.mark.patient
async def test_tables_and_grants_come_together(roles: Roles) -> None:
    """Or a process that starts meanwhile would find tables that it may not read."""
    with pytest.raises(RoleRefused):
        await migrate(roles.owner, application_role="nobody")
    with psycopg.connect(roles.owner) as connection:
        row = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    assert row == (None,)
    await migrate(roles.owner, application_role=roles.name)
    store = PostgresStore(StoreSettings(url=SecretStr(roles.application)))
    await store.open()
    await store.aclose()
