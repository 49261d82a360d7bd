"""Keys in the database: they rotate, verify for a while, and are forgotten. Imports that lapse."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from knit_workflows.domain.errors import ImportOver
from knit_workflows.domain.imports import ImportTimes
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.store import PostgresStore
from knit_workflows.store.connection import Database, _Lost
from tests.store.build import begin, fetch

TIMES = ImportTimes(window=timedelta(minutes=30), key_life=timedelta(hours=3))
HOUR = timedelta(hours=1)
NONE = timedelta()


def age(url: str, by: timedelta) -> None:
    """Lets time pass for all keys and imports."""
    fetch(url, "UPDATE import_key SET created_at = created_at - %s", by)
    fetch(url, "UPDATE run SET created_at = created_at - %s, updated_at = updated_at - %s", by, by)


async def test_an_import_that_is_begun_once_more_is_the_same(
    store: PostgresStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement is repeated whose answer was lost with its connection, although it was done."""
    once = Database._once

    async def answer_is_lost(self: Database, *arguments: Any) -> Any:
        await once(self, *arguments)
        monkeypatch.setattr(Database, "_once", once)
        raise _Lost(psycopg.OperationalError("gone"), committing=False)

    monkeypatch.setattr(Database, "_once", answer_is_lost)
    begun = await store.imports.begin()
    [run] = await store.runs.find(RunQuery())
    assert run.summary.run_id == begun.run_id
    assert [one.knit_id for one in run.outputs] == [begun.knit_id]
    assert len(await store.runs.events(begun.run_id)) == 1


async def test_a_key_signs_until_it_would_not_outlive_its_tokens(
    store: PostgresStore, url: str
) -> None:
    first = await store.imports.signing_key(TIMES)
    age(url, timedelta(hours=2, minutes=29))
    assert (await store.imports.signing_key(TIMES)).kid == first.kid
    age(url, timedelta(minutes=2))
    second = await store.imports.signing_key(TIMES)
    assert second.kid != first.kid
    assert second.secret != first.secret
    found = await store.imports.find_key(first.kid)
    assert found is not None
    assert timedelta(hours=2, minutes=31) < found.age < TIMES.key_life


async def test_a_key_is_known_for_another_life_and_then_forgotten(
    store: PostgresStore, url: str
) -> None:
    first = await store.imports.signing_key(TIMES)
    age(url, 4 * HOUR)
    await store.imports.signing_key(TIMES)
    found = await store.imports.find_key(first.kid)
    assert found is not None
    assert found.age > TIMES.key_life
    age(url, 3 * HOUR)
    await store.imports.signing_key(TIMES)
    assert await store.imports.find_key(first.kid) is None


async def test_imports_that_lapse_are_found(store: PostgresStore, url: str) -> None:
    """And those that were ended but not finished; nobody else's Runs."""
    await begin(store)
    late, ended, stopped = [await store.imports.begin() for _ in range(3)]
    await store.imports.end(ended, window=TIMES.window)
    await store.runs.stop(stopped.run_id, fail=True)

    async def found(older_than: timedelta) -> dict[str, RunStatus]:
        many = await store.housekeeping.unfinished_imports(
            window=TIMES.window, older_than=older_than, limit=99
        )
        return {one.key.run_id: one.status for one in many}

    assert await found(HOUR) == {}
    assert await found(NONE) == {
        ended.run_id: RunStatus.COMPLETING,
        stopped.run_id: RunStatus.ABORTING,
    }
    age(url, timedelta(minutes=31))
    assert set(await found(HOUR)) == {late.run_id}
    assert set(await found(NONE)) == {late.run_id, ended.run_id, stopped.run_id}
    with pytest.raises(ImportOver, match="longer than"):
        await store.imports.end(late, window=TIMES.window)
