"""The database at one instant, and what it is once it is loaded elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from knit_workflows import names
from knit_workflows.domain.errors import StoreMismatch
from knit_workflows.store import PostgresStore
from knit_workflows.store.migrations import REVISION
from knit_workflows.store.snapshot import LEFT_OUT, TABLES
from knit_workflows.store.snapshot.loading import NotEmpty, load_database, look
from knit_workflows.store.snapshot.reading import read_database, still_there
from knit_workflows.store.tables import metadata
from tests.postgres import Databases, fetch
from tests.store.build import begin, drain, register, spec, upload

Frames = list[dict[str, Any] | bytes]


def part(frames: Frames, word: str) -> dict[str, Any]:
    return next(one for one in frames if isinstance(one, dict) and word in one)


def for_loading(frames: Frames, gone: list[str]) -> Iterator[dict[str, Any] | bytes]:
    """What a restore makes of what was read: without the list of volumes."""
    about = part(frames, "at")
    yield {"set": "s1", "at": about["at"], "revision": about["revision"], "by": "me", "gone": gone}
    last = frames.index(part(frames, "sequences"))
    yield from frames[1 : last + 1]


def volumes(frames: Frames) -> dict[str, dict[str, Any]]:
    first = frames.index(part(frames, "volumes"))
    lines = b"".join(one for one in frames[first:] if isinstance(one, bytes)).splitlines()
    return {one["knit_id"]: one for one in map(json.loads, lines)}


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    return [tuple(one.values()) for one in fetch(url, query)]


async def test_what_was_loaded_is_what_was_read(
    store: PostgresStore, url: str, databases: Databases
):
    plan = await register(store, spec({"/in": "a:1"}, {"/out": "b:1"}, log="l:1"))
    done = await upload(store, "a:1 c:ä\\t")
    other = await upload(store, "a:1")
    await drain(store)
    _, unfinished = await begin(store)
    first, second = rows(url, f"SELECT run_id::text FROM run WHERE plan_id = '{plan}' ORDER BY 1")
    fetch(url, "UPDATE run SET status = 'running' WHERE run_id = %s", first[0])
    fetch(url, "UPDATE run SET admitted_at = now() WHERE run_id = %s", second[0])
    fetch(url, "INSERT INTO audit (at, method) VALUES (now(), 'PUT'), (now(), 'GET')")
    fetch(
        url,
        "INSERT INTO audit (at, status, outcome_of) SELECT now(), 200, min(entry_id) FROM audit",
    )
    frames = list(read_database(url))
    await upload(store, "a:1")  # after the instant
    assert part(frames, "at")["revision"] == REVISION
    assert part(frames, "at")["under_way"] == 2
    assert volumes(frames).keys() == {done, other}

    async with databases.store() as (_, into):
        fetch(into, "INSERT INTO audit (at, method) VALUES (now(), 'BEFORE')")
        loaded = load_database(into, for_loading(frames, gone=[other]))
        assert loaded["data"] == 7
        for query in (
            "SELECT knit_id, timestamp FROM data WHERE timestamp < (SELECT at FROM audit "
            "WHERE method = 'PUT') ORDER BY 1",
            "SELECT t.key, t.value, d.knit_id FROM data_tag d JOIN tag t USING (tag_id) "
            "WHERE d.timestamp < (SELECT at FROM audit WHERE method = 'PUT') ORDER BY 1, 2, 3",
            "SELECT run_id, plan_id, assignment_hash, generation, created_at FROM run "
            "WHERE created_at < (SELECT at FROM audit WHERE method = 'PUT') ORDER BY 1",
            "SELECT * FROM plan ORDER BY 1",
        ):
            assert rows(into, query) == rows(url, query)
            assert rows(into, query)
        statuses = dict(rows(into, "SELECT run_id::text, status FROM run"))
        assert statuses[first[0]] == "failed"
        assert statuses[second[0]] == "waiting"
        [(message, code, admitted)] = rows(
            into,
            "SELECT a.exit_message, a.exit_code, b.admitted_at FROM run a, run b"
            f" WHERE a.run_id = '{first[0]}' AND b.run_id = '{second[0]}'",
        )
        assert message.startswith("under way when the backup of 20")
        assert (code, admitted) == (254, None)
        causes = rows(
            into,
            f"SELECT from_status, to_status, cause FROM run_event"
            f" WHERE run_id = '{first[0]}' AND to_status = 'failed'",
        )
        assert causes == [("running", "failed", "restored from a backup")]
        purged = dict(rows(into, "SELECT knit_id::text, purged_at IS NOT NULL FROM data"))
        assert (purged[other], purged[done], purged[unfinished]) == (True, False, False)
        methods = [one[0] for one in rows(into, "SELECT method FROM audit ORDER BY entry_id")]
        assert methods == ["PUT", "GET", "", "BEFORE", "RESTORE"]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # append-only, as it was
            fetch(into, "DELETE FROM audit")
        assert look(into).restored == "s1"


@pytest.mark.patient
async def test_runs_that_wait_write_into_no_volume_that_may_be_there(
    store: PostgresStore, url: str, databases: Databases
):
    await register(store, spec({"/in": "a:1"}, {"/out": "b:1"}, log="l:1"))
    final = await upload(store, "a:1")
    await drain(store)
    ours = {one for (one,) in rows(url, "SELECT knit_id::text FROM data")} - {final}
    assert len(ours) == 2
    frames = list(read_database(url))
    async with databases.store() as (_, into):
        load_database(into, for_loading(frames, gone=[]))
        volumes_ = dict(rows(into, "SELECT knit_id::text, volume FROM data"))
    assert volumes_[final] == names.volume(final)
    new = [volumes_[one] for one in ours]
    assert all(names.is_own_volume(one) for one in new)
    assert not {names.volume(one) for one in ours} & set(new)
    assert len(set(new)) == 2


@pytest.mark.patient
async def test_ids_go_on_after_those_that_were_loaded(
    store: PostgresStore, url: str, databases: Databases
):
    await upload(store, "a:1")
    frames = list(read_database(url))
    async with databases.store() as (into_store, into):
        load_database(into, for_loading(frames, gone=[]))
        await upload(into_store, "b:1 a:1")
        await register(into_store, spec({"/in": "a:1"}))
        await drain(into_store)
        assert len(rows(into, "SELECT run_id FROM run WHERE assignment_hash IS NOT NULL")) == 2


@pytest.mark.patient
async def test_a_database_in_use_is_refused_and_stays(
    store: PostgresStore, url: str, databases: Databases
):
    await upload(store, "a:1")
    frames = list(read_database(url))
    with pytest.raises(NotEmpty) as refused:
        load_database(url, for_loading(frames, gone=[]))
    assert refused.value.found.found == {"Data": 1, "Runs": 1, "Plans": 0, "tokens": 0}
    async with databases.store() as (_, into):
        cut = list(for_loading(frames, gone=[]))
        cut[cut.index(part(frames, "sequences")) - 1] = {"rows": 5}
        with pytest.raises(ValueError, match="rows, not 5"):
            load_database(into, iter(cut))
        assert look(into).found["Data"] == 0
        assert rows(into, "SELECT name FROM plan ORDER BY 1") == [
            ("knit#imported",),
            ("knit#uploaded",),
        ]


async def test_a_database_of_another_revision_is_not_read(databases: Databases):
    async with databases.store() as (_, url):
        fetch(url, "UPDATE alembic_version SET version_num = '9999'")
        try:
            with pytest.raises(StoreMismatch, match="has revision 9999, this knit knows"):
                list(read_database(url))
        finally:
            fetch(url, "UPDATE alembic_version SET version_num = %s", REVISION)


async def test_deleted_and_purged_data_are_not_there_any_more(store: PostgresStore, url: str):
    stays, goes = await upload(store), await upload(store)
    fetch(url, "UPDATE data SET purged_at = now() WHERE knit_id = %s", goes)
    assert still_there(url, [stays, goes, "00000000-0000-4000-8000-000000000000"]) == {stays}


def test_every_table_is_part_of_it_or_left_out_on_purpose():
    assert {name for name, _ in TABLES} | LEFT_OUT == set(metadata.tables)
