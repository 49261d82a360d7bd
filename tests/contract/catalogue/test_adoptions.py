"""`AdoptionStore`: volumes of others become Data, each once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from knit_workflows import names
from knit_workflows.domain.data import MAX_ADOPTIONS, Adopted, Adoption, DataQuery
from knit_workflows.domain.errors import DataNotFound, IllegalMove, InvalidRequest, VolumeRefused
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import drain, only, register, spec, tags


async def adopt(store: AnyStore, volume: str, text: str = "", **more: Any) -> Adopted:
    [found] = await store.adoptions.adopt([Adoption(volume, tags(text))], **more)
    return found


async def test_an_adopted_volume_is_data_at_once(store: AnyStore) -> None:
    """Its Run is of the built-in Plan and done; who adopted it is in the history."""
    found = await adopt(store, "/srv/big", "type:dataset owner:them", actor="alice")
    assert found.is_new
    data = found.data
    assert data.adopted_volume == "/srv/big"
    assert {Tag("type", "dataset"), Tag("owner", "them")} <= set(data.tags)
    assert {tag.key for tag in data.tags if tag.is_system} == {"knit#id", "knit#timestamp"}
    assert data.upstream.path == "/imported"
    run = await store.runs.get(data.upstream.run.run_id)
    assert run.summary.plan.name == "knit#imported"
    assert run.summary.status is RunStatus.DONE
    assert [one.knit_id for one in run.outputs] == [data.knit_id]
    [event] = await store.runs.events(run.summary.run_id)
    assert (event.from_status, event.to_status, event.actor) == (None, RunStatus.DONE, "alice")
    assert await store.data.get(data.knit_id) == data


async def test_what_runs_make_is_not_adopted(store: AnyStore) -> None:
    assert (await adopt(store, "/srv/big")).data.adopted_volume == "/srv/big"
    run = only(await store.runs.find(RunQuery()))
    assert only(await store.data.find(DataQuery())).upstream.run.run_id == run.summary.run_id


async def test_an_adopted_volume_fills_inputs(store: AnyStore) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    data = (await adopt(store, "claim", "k:a")).data
    await drain(store)
    [run] = [one for one in await store.runs.find(RunQuery()) if one.inputs]
    assert [one.knit_id for one in run.inputs] == [data.knit_id]


async def test_the_same_volume_is_the_same_data(store: AnyStore) -> None:
    """It gets the tags that it lacks, and keeps those it has."""
    first = await adopt(store, "claim", "k:a")
    again = await adopt(store, "claim", "k:a x:1")
    assert not again.is_new
    assert again.data.knit_id == first.data.knit_id
    assert {tag for tag in again.data.tags if not tag.is_system} == tags("k:a x:1")
    assert await adopt(store, "claim") == again
    assert len(await store.runs.find(RunQuery())) == 1
    assert await store.adoptions.known(["claim", "other"]) == {"claim": first.data.knit_id}


async def test_a_volume_of_others_is_not_taken(store: AnyStore) -> None:
    """`among` are the projects of who asks: looked at together with what is changed."""
    first = await adopt(store, "claim", "p:a")
    with pytest.raises(VolumeRefused, match="none of your projects"):
        await adopt(store, "claim", "p:b", among=tags("p:b"))
    assert (await store.data.get(first.data.knit_id)).tags == first.data.tags
    assert not (await adopt(store, "claim", "p:b", among=tags("p:a"))).is_new
    assert (await adopt(store, "other", "p:b", among=tags("p:b"))).is_new


async def test_new_tags_of_a_known_volume_make_runs(store: AnyStore) -> None:
    await register(store, spec({"/in": "x:1"}, {"/out": "k:b"}))
    await adopt(store, "claim")
    assert await drain(store) == 0
    await adopt(store, "claim", "x:1")
    await drain(store)
    assert len([one for one in await store.runs.find(RunQuery()) if one.inputs]) == 1


async def test_two_who_adopt_at_once_get_one_data(store: AnyStore) -> None:
    many = await asyncio.gather(*(adopt(store, "claim", f"k:{n}") for n in range(6)))
    assert len({one.data.knit_id for one in many}) == 1
    assert [one.is_new for one in many].count(True) == 1
    data = await store.data.get(many[0].data.knit_id)
    assert {tag for tag in data.tags if not tag.is_system} == tags("k:0 k:1 k:2 k:3 k:4 k:5")


async def test_a_batch_is_adopted_in_order(store: AnyStore) -> None:
    known = await adopt(store, "b")
    found = await store.adoptions.adopt(
        [Adoption("c", tags("n:3")), Adoption("b", tags("n:2")), Adoption("a", tags("n:1"))]
    )
    assert [one.volume for one in found] == ["c", "b", "a"]
    assert [one.is_new for one in found] == [True, False, True]
    assert found[1].data.knit_id == known.data.knit_id
    assert [tags(f"n:{n}") <= set(one.data.tags) for n, one in zip((3, 2, 1), found, strict=True)]


async def test_knits_own_volumes_are_refused(store: AnyStore) -> None:
    """A Run may still write them; and nothing of the batch is adopted."""
    own = names.volume(str(uuid4()))
    with pytest.raises(VolumeRefused, match=own):
        await store.adoptions.adopt([Adoption("claim"), Adoption(own)])
    assert await store.data.find(DataQuery()) == []


@pytest.mark.parametrize(
    "adoptions",
    [
        [],
        [Adoption("a"), Adoption("a")],
        [Adoption("a", frozenset({Tag("knit#id", "x")}))],
        [Adoption(str(number)) for number in range(MAX_ADOPTIONS + 1)],
    ],
    ids=["nothing", "twice", "a system tag", "too many"],
)
async def test_an_invalid_batch_is_refused(store: AnyStore, adoptions: list[Adoption]) -> None:
    with pytest.raises(InvalidRequest):
        await store.adoptions.adopt(adoptions)
    assert await store.data.find(DataQuery()) == []


async def test_deletion_names_the_volume_that_stays(store: AnyStore) -> None:
    first = (await adopt(store, "claim", "k:a")).data
    assert await store.runs.delete(first.upstream.run.run_id) == ["claim"]
    with pytest.raises(DataNotFound):
        await store.data.get(first.knit_id)
    again = await adopt(store, "claim")
    assert again.is_new
    assert again.data.knit_id != first.knit_id


async def test_an_adoption_cannot_be_retried(store: AnyStore) -> None:
    data = (await adopt(store, "claim")).data
    with pytest.raises(IllegalMove):
        await store.runs.retry(data.upstream.run.run_id)


async def test_a_download_reads_the_adopted_volume(store: AnyStore) -> None:
    data = (await adopt(store, "/srv/big")).data
    record = await store.transfers.begin_download("r1", data.knit_id)
    assert record.volume == "/srv/big"
