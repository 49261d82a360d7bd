"""Purge in the database: what becomes garbage, and that nobody reads what is going."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from knit_workflows import names
from knit_workflows.domain.data import Adoption, TagChange
from knit_workflows.domain.errors import InvalidRequest, KnitError
from knit_workflows.domain.ids import KnitId
from knit_workflows.store import PostgresStore
from tests.store.build import drain, fetch, register, spec, tags
from tests.store.test_retry_delete import a_run, pushed


async def garbage(store: PostgresStore) -> list[str]:
    found = await store.housekeeping.discarded(older_than=timedelta(), limit=99)
    return [one.volume for one in found]


async def test_the_volume_is_garbage_once(store: PostgresStore) -> None:
    knit_id = await pushed(store, "type:a")
    await store.data.purge(knit_id, dry_run=True)
    assert await garbage(store) == []
    await store.data.purge(knit_id)
    await store.data.purge(knit_id)
    assert await garbage(store) == [names.volume(knit_id)]


@pytest.mark.parametrize("collected", [False, True])
async def test_a_purged_data_can_be_deleted(
    store: PostgresStore, url: str, collected: bool
) -> None:
    """Whether its volume has been collected by then or not: it is not garbage again."""
    knit_id = await pushed(store, "type:a")
    run_id = (await store.data.purge(knit_id)).data.upstream.run.run_id
    if collected:
        await store.housekeeping.collected([knit_id])
    await store.runs.delete(run_id)
    assert await garbage(store) == ([] if collected else [names.volume(knit_id)])
    assert fetch(url, "SELECT count(*) AS left FROM data") == [{"left": 0}]


async def test_an_adopted_volume_is_no_garbage(store: PostgresStore) -> None:
    [adopted] = await store.adoptions.adopt([Adoption("/srv/big")])
    await store.data.purge(adopted.data.knit_id)
    await store.runs.delete(adopted.data.upstream.run.run_id)
    assert await garbage(store) == []


async def test_a_run_of_a_purged_data_cannot_be_asked_for(store: PostgresStore) -> None:
    plan = await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    knit_id = await pushed(store, "x:1")
    await store.data.purge(knit_id)
    await store.data.change_tags(knit_id, TagChange(add=tags("k:a")))
    with pytest.raises(InvalidRequest, match="does not satisfy"):
        await store.runs.ensure(plan, {"/in": knit_id})


async def test_a_retry_and_a_purge_of_its_input_exclude_each_other(store: PostgresStore) -> None:
    key = await a_run(store)
    input_id = KnitId((await store.runs.get(key.run_id)).inputs[0].knit_id or "")
    outcomes = await asyncio.gather(
        store.runs.retry(key.run_id), store.data.purge(input_id), return_exceptions=True
    )
    failed = [one for one in outcomes if isinstance(one, BaseException)]
    assert len(failed) == 1, outcomes
    assert isinstance(failed[0], KnitError)


@pytest.mark.patient
async def test_no_run_is_made_of_what_is_purged_in_between(store: PostgresStore, url: str) -> None:
    """Many Data, matched by several processes and purged at once."""
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    knit_ids = [await pushed(store, "k:a") for _ in range(30)]
    await asyncio.gather(
        *(drain(store) for _ in range(4)),
        *(store.data.purge(knit_id) for knit_id in knit_ids),
        return_exceptions=True,
    )
    await drain(store)
    rows = fetch(
        url,
        """SELECT (purged_at IS NOT NULL) <> EXISTS (SELECT FROM run_input ri
                                                      WHERE ri.knit_id = data.knit_id) AS fine
             FROM data
            WHERE knit_id = ANY (%s::uuid[])""",
        knit_ids,
    )
    assert [row["fine"] for row in rows] == [True] * 30
