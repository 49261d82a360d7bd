"""What is remembered of the content of Data."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from knit_workflows.store.inspection.hashes import (
    KnownContent,
    SeenContent,
    known_contents,
    record_contents,
)
from tests.postgres import Databases
from tests.store.build import admit_all, drain, register, spec, upload


def by_id(url: str) -> dict[str, KnownContent]:
    return {one.knit_id: one for one in known_contents(url)}


async def test_hashes_are_kept_until_somebody_accepts_others(databases: Databases) -> None:
    async with databases.store() as (store, url):
        first, second = [await upload(store, "a:1") for _ in range(2)]
        assert [(one.knit_id, one.sha256) for one in known_contents(url)] == [
            (first, None), (second, None),
        ]  # fmt: skip
        gone = SeenContent("00000000-0000-4000-8000-000000000000", "x", 1)
        record_contents(url, [SeenContent(first, "a", 1), gone], by="verify", replaces=False)
        assert [one.knit_id for one in known_contents(url)] == [second, first], "the longest first"
        assert [one.knit_id for one in known_contents(url, older_than=timedelta(days=1))] == [
            second
        ]
        before = by_id(url)[first]
        record_contents(url, [SeenContent(first, "b", 1)], by="verify", replaces=False)
        assert by_id(url)[first] == before
        record_contents(url, [SeenContent(first, "b", 2)], by="ann", replaces=True)
        assert by_id(url)[first].sha256 == "b"
        assert [one.knit_id for one in known_contents(url, knit_ids=(second,))] == [second]


@pytest.mark.patient
async def test_what_was_tried_waits_for_its_turn_and_is_not_compared(databases: Databases) -> None:
    async with databases.store() as (store, url):
        first, second = [await upload(store, "a:1") for _ in range(2)]
        record_contents(url, [SeenContent(first, None, None)], by="verify", replaces=False)
        assert [one.knit_id for one in known_contents(url)] == [second, first]
        assert (by_id(url)[first].sha256, by_id(url)[first].recorded_at) == (None, None)
        record_contents(url, [SeenContent(second, "b", 1)], by="verify", replaces=False)
        day = timedelta(days=1)
        assert [one.knit_id for one in known_contents(url, older_than=day)] == [first]
        record_contents(url, [SeenContent(first, "a", 1)], by="verify", replaces=False)
        assert known_contents(url, older_than=day) == []
        for other in (None, "c"):  # neither is recorded
            record_contents(url, [SeenContent(second, other, None)], by="verify", replaces=False)
            assert [one.sha256 for one in known_contents(url)] == ["a", "b"]
            record_contents(url, [SeenContent(first, other, None)], by="verify", replaces=False)
            assert [one.sha256 for one in known_contents(url)] == ["b", "a"]


async def test_what_runs_have_made_is_told_apart_from_what_was_pushed(databases: Databases) -> None:
    async with databases.store() as (store, url):
        await register(store, spec({"/in": "a:1"}, {"/out": "b:1"}))
        pushed = await upload(store, "a:1")
        await drain(store)
        [key] = await admit_all(store)
        made = (await store.execution.spec(key)).outputs[0].volume.knit_id
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE run SET status = 'done'")
        expected = {pushed: False, made: True}
        assert {one.knit_id: one.was_made for one in known_contents(url)} == expected
        before = await store.agreement.now() + timedelta(days=1)
        kept = await store.agreement.kept_data(before=before, after=None, limit=9)
        assert {one.knit_id: one.was_made for one in kept} == expected


async def test_a_hash_goes_with_its_data(databases: Databases) -> None:
    """Also where a program deletes Data that does not know of hashes."""
    async with databases.store() as (store, url):
        one = await upload(store, "a:1")
        record_contents(url, [SeenContent(one, "a", 1)], by="verify", replaces=False)
        with psycopg.connect(url) as connection:
            for table in ("data_tag", "transfer"):
                connection.execute(f"DELETE FROM {table} WHERE knit_id = %s", [one])
            connection.execute("DELETE FROM data WHERE knit_id = %s", [one])
            assert connection.execute("SELECT count(*) FROM content_hash").fetchone() == (0,)
