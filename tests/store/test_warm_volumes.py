"""Volumes that wait for uploads: each has one keeper, and then one Data."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.store import PostgresStore
from tests.store.build import fetch


async def uploaded(store: PostgresStore, transfer_id: str = "") -> TransferRecord:
    run_id, knit_id = RunId(str(uuid4())), KnitId(str(uuid4()))
    return await store.transfers.begin_upload(transfer_id or uuid4().hex, run_id, knit_id)


async def ready(store: PostgresStore, count: int) -> dict[str, str]:
    """Makes so many ready; gives their tokens by their names."""
    held = await store.warm_volumes.hold("a", "kind", count)
    for one in held:
        assert await store.warm_volumes.ready("a", one.volume)
    return {one.volume: one.token for one in held}


async def test_an_upload_takes_a_volume_that_is_ready_and_its_token(store: PostgresStore) -> None:
    """An upload that finds none has a volume of its own, as if there were no pool."""
    waiting = await ready(store, 2)
    first, second, third = [await uploaded(store) for _ in range(3)]
    assert {one.volume: one.token for one in (first, second)} == waiting
    assert names.is_warm(first.volume, first.knit_id)
    assert third.volume == names.volume(third.knit_id)
    assert not names.is_warm(third.volume, third.knit_id)


async def test_one_that_is_not_ready_is_not_taken(store: PostgresStore) -> None:
    [one] = await store.warm_volumes.hold("a", "kind", 1)
    assert (await uploaded(store)).volume != one.volume


async def test_an_upload_that_begins_twice_takes_one(store: PostgresStore, url: str) -> None:
    """Also if its worker was killed in between, and both beginnings come at once."""
    await ready(store, 3)
    run_id, knit_id = RunId(str(uuid4())), KnitId(str(uuid4()))
    same = await asyncio.gather(
        *(store.transfers.begin_upload("t", run_id, knit_id) for _ in range(5))
    )
    assert len(set(same)) == 1
    assert fetch(url, "SELECT count(*) FROM warm_volume") == [{"count": 2}]


async def test_uploads_at_once_never_share_one(store: PostgresStore) -> None:
    await ready(store, 3)
    records = await asyncio.gather(*(uploaded(store) for _ in range(8)))
    assert len({one.volume for one in records}) == 8


async def test_what_is_taken_is_replaced(store: PostgresStore) -> None:
    taken = await ready(store, 2)
    await uploaded(store)
    [made] = await store.warm_volumes.hold("a", "kind", 2)
    assert made.volume not in taken


async def test_a_keeper_that_died_has_heirs(store: PostgresStore, url: str) -> None:
    """What it made is nobody else's, until it has not been heard of for a minute."""
    [one] = await store.warm_volumes.hold("a", "kind", 1)
    assert await store.warm_volumes.hold("b", "kind", 1) == []
    assert await store.warm_volumes.hold("a", "kind", 1) == [one]
    fetch(url, "UPDATE warm_volume SET until = now() - interval '1 s'")
    assert await store.warm_volumes.hold("b", "kind", 1) == [one]
    assert not await store.warm_volumes.ready("a", one.volume), "it is not the first one's any more"
    assert await store.warm_volumes.ready("b", one.volume)


async def test_only_who_holds_a_volume_may_end_it(store: PostgresStore, url: str) -> None:
    """Not who held it before, nor once it is ready for uploads, or an upload's."""
    [one] = await store.warm_volumes.hold("a", "kind", 1)
    fetch(url, "UPDATE warm_volume SET until = now() - interval '1 s'")
    await store.warm_volumes.hold("b", "kind", 1)
    assert not await store.warm_volumes.end("a", one.volume)
    assert await store.warm_volumes.ready("b", one.volume)
    assert not await store.warm_volumes.end("b", one.volume)
    assert (await uploaded(store)).volume == one.volume
    assert not await store.warm_volumes.end("b", one.volume)


async def test_one_that_is_to_end_is_taken_by_nobody(store: PostgresStore) -> None:
    [one] = await store.warm_volumes.hold("a", "kind", 1)
    assert await store.warm_volumes.end("a", one.volume)
    assert not await store.warm_volumes.ready("a", one.volume)
    held = await store.warm_volumes.hold("a", "kind", 1)
    assert [again.volume == one.volume for again in held if again.ending] == [True]
    assert await store.warm_volumes.end("a", one.volume)  # the first attempt was cut


async def test_one_that_is_looked_after_is_taken_by_nobody_meanwhile(
    store: PostgresStore, url: str
) -> None:
    """So a pod is never made anew for a volume that has become a Data's."""
    [volume] = await ready(store, 1)
    fetch(url, "UPDATE warm_volume SET until = now() - interval '1 s'")
    [held] = await store.warm_volumes.hold("b", "kind", 1)
    assert held.volume == volume
    assert (await uploaded(store)).volume != volume


@pytest.mark.parametrize(("kind", "count"), [("kind", 1), ("another", 1), ("kind", 0)])
async def test_what_is_superfluous_goes_to_the_garbage(
    store: PostgresStore, url: str, kind: str, count: int
) -> None:
    """Fewer are wanted, or others: of another class, for example."""
    old = await ready(store, 2)
    ending = [one for one in await store.warm_volumes.hold("b", kind, count) if one.ending]
    assert len(ending) == 2 - (count if kind == "kind" else 0)
    for one in ending:
        await store.warm_volumes.discard("b", one.volume)
        await store.warm_volumes.discard("b", one.volume)
    gone = {row["volume"] for row in fetch(url, "SELECT volume FROM discarded")}
    assert gone == {one.volume for one in ending}
    assert gone <= set(old)


@pytest.mark.patient
async def test_what_goes_is_given_at_once(store: PostgresStore) -> None:
    """Not a part of a millisecond later, to which its instant would have been rounded up."""
    for _ in range(100):
        old = await ready(store, 1)
        [ending] = await store.warm_volumes.hold("b", "kind", 0)
        assert (ending.ending, ending.volume in old) == (True, True)
        await store.warm_volumes.discard("b", ending.volume)
