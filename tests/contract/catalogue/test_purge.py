"""`DataStore.purge`: the content goes; tags, history and lineage stay."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from knit_workflows import names
from knit_workflows.domain.data import Adoption, DataQuery, TagChange
from knit_workflows.domain.errors import DataNotFound, IllegalMove, KnitError
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunDetail, RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import begin, drain, end, only, register, spec, tags

S = RunStatus
PURGED = Tag("knit#transient", "purged")


async def pushed(store: AnyStore, text: str = "k:a") -> KnitId:
    """A Data whose transfer is closed."""
    key, knit_id = await begin(store)
    await store.data.change_tags(knit_id, TagChange(add=tags(text)))
    await end(store, key)
    await store.transfers.closed(f"transfer-{knit_id}")
    return knit_id


async def run_of(store: AnyStore, knit_id: KnitId) -> RunDetail:
    """The one Run that uses a Data."""
    data = await store.data.get(knit_id)
    return await store.runs.get(only(data.downstreams).run.run_id)


async def test_only_the_content_goes(store: AnyStore) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    knit_id = await pushed(store)
    await drain(store)
    run = await run_of(store, knit_id)
    await end(store, RunKey(run.summary.run_id, 1))
    before = await store.data.get(knit_id)
    assert before.nominations
    purge = await store.data.purge(knit_id, actor="alice")
    assert (purge.is_new, purge.volume) == (True, names.volume(knit_id))
    after = await store.data.get(knit_id)
    assert after == purge.data
    assert set(after.tags) == {*before.tags, PURGED}
    assert after.upstream == before.upstream
    assert after.downstreams == before.downstreams
    assert after.nominations == ()
    lineage = await store.lineage.get(knit_id, upstream=1, downstream=1, limit=99)
    assert {one.knit_id for one in lineage.data} > {knit_id}
    event = (await store.runs.events(after.upstream.run.run_id))[-1]
    assert (event.from_status, event.to_status, event.actor) == (S.DONE, S.DONE, "alice")
    assert knit_id in event.cause


async def test_again_is_fine_and_nothing_happens(store: AnyStore) -> None:
    knit_id = await pushed(store)
    await store.data.purge(knit_id)
    run_id = (await store.data.get(knit_id)).upstream.run.run_id
    events = await store.runs.events(run_id)
    again = await store.data.purge(knit_id)
    assert (again.is_new, again.volume) == (False, None)
    assert await store.runs.events(run_id) == events


async def test_a_dry_run_changes_nothing(store: AnyStore) -> None:
    knit_id = await pushed(store)
    purge = await store.data.purge(knit_id, dry_run=True)
    assert (purge.is_new, purge.volume) == (True, names.volume(knit_id))
    assert PURGED not in (await store.data.get(knit_id)).tags
    assert (await store.data.purge(knit_id)).is_new


async def test_a_dry_run_leaves_an_endpoint_that_is_kept(store: AnyStore) -> None:
    """It is in nobody's way, and ends only with the purge itself."""
    knit_id = await pushed(store)
    await store.transfers.begin_download("r1", knit_id)
    await store.transfers.opened("r1", "http://127.0.0.1:1/")
    left = await store.transfers.leave("r1", knit_id, "r1", linger=timedelta(hours=1))
    assert left.stays
    assert (await store.data.purge(knit_id, dry_run=True)).is_new
    assert (await store.transfers.get("r1")).knit_id == knit_id
    assert (await store.data.purge(knit_id)).is_new
    with pytest.raises(KnitError):
        await store.transfers.get("r1")


async def test_purged_data_are_found_as_such_only(store: AnyStore) -> None:
    gone, there = await pushed(store), await pushed(store)
    key, broken = await begin(store)
    await end(store, key, fail=True)
    await store.transfers.closed(f"transfer-{broken}")
    await store.data.purge(gone)
    await store.data.purge(broken)
    for text, wanted in {
        "purged": {gone, broken}, "failed": set(), "processing": set(),
    }.items():  # fmt: skip
        query = DataQuery((Tag("knit#transient", text),))
        assert {one.knit_id for one in await store.data.find(query)} == wanted
    both = DataQuery((PURGED, Tag("k", "a")))
    assert [one.knit_id for one in await store.data.find(both)] == [gone]
    assert there in {one.knit_id for one in await store.data.find(DataQuery((Tag("k", "a"),)))}


async def test_no_new_run_uses_it(store: AnyStore) -> None:
    """Whether the Plan, the other Data or the tag comes later, or is asked for by its id."""
    gone = await pushed(store, "k:a")
    stamp = next(tag for tag in (await store.data.get(gone)).tags if tag.key == "knit#timestamp")
    await store.data.purge(gone)
    plans = [
        await register(store, spec({"/in": wish}, {"/out": "k:z"}, image=f"demo:{number}"))
        for number, wish in enumerate(("k:a", "late:1", f"knit#id:{gone}", str(stamp)))
    ]
    pair = await register(store, spec({"/a": "k:a", "/b": "k:b"}, {"/out": "k:y"}, image="p:1"))
    await drain(store)
    await pushed(store, "k:b")
    await store.data.change_tags(gone, TagChange(add=tags("late:1")))
    await drain(store)
    for plan in (*plans, pair):
        assert await store.runs.find(RunQuery(plan_ids=frozenset({plan}))) == []


async def test_a_data_that_waits_to_be_matched_may_be_purged(store: AnyStore) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:z"}))
    # A store in memory matches at once.
    key, knit_id = await begin(store)
    await end(store, key)
    await store.transfers.closed(f"transfer-{knit_id}")
    await store.data.purge(knit_id)
    await store.data.change_tags(knit_id, TagChange(add=tags("k:a")))
    assert await drain(store) == 0


async def test_it_cannot_be_downloaded(store: AnyStore) -> None:
    knit_id = await pushed(store)
    await store.data.purge(knit_id)
    with pytest.raises(DataNotFound, match="was purged"):
        await store.transfers.begin_download("r1", knit_id)
    with pytest.raises(DataNotFound):
        await store.data.purge(KnitId(str(uuid4())))
    with pytest.raises(DataNotFound):
        await store.data.purge(KnitId("no id"))


async def test_it_is_refused_while_it_is_made(store: AnyStore) -> None:
    key, knit_id = await begin(store)
    for dry_run in (True, False):
        with pytest.raises(IllegalMove) as refused:
            await store.data.purge(knit_id, dry_run=dry_run)
        assert refused.value.see == key.run_id


async def test_it_is_refused_while_a_run_reads_it(store: AnyStore) -> None:
    """From the moment that the Run exists until it has ended."""
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    knit_id = await pushed(store)
    await drain(store)
    run = await run_of(store, knit_id)
    key = RunKey(run.summary.run_id, 1)
    for status in (S.READY, S.STARTING, S.RUNNING, S.COMPLETING):
        with pytest.raises(IllegalMove) as refused:
            await store.data.purge(knit_id)
        assert refused.value.see == key.run_id
        await store.execution.advance(key, status, cause="test")
    with pytest.raises(IllegalMove):
        await store.data.purge(knit_id)
    await store.execution.finalize(key, cause="test")
    assert (await store.data.purge(knit_id)).is_new


async def test_it_is_refused_while_it_is_transferred(store: AnyStore) -> None:
    knit_id = await pushed(store)
    await store.transfers.begin_download("r1", knit_id)
    with pytest.raises(IllegalMove, match="transferred"):
        await store.data.purge(knit_id)
    await store.transfers.closed("r1")
    assert (await store.data.purge(knit_id)).is_new


async def test_its_users_cannot_be_retried_and_say_so(store: AnyStore) -> None:
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    knit_id = await pushed(store)
    await drain(store)
    run = await run_of(store, knit_id)
    await end(store, RunKey(run.summary.run_id, 1))
    await store.data.purge(knit_id)
    with pytest.raises(IllegalMove, match="purged") as refused:
        await store.runs.retry(run.summary.run_id)
    assert knit_id in refused.value.reason
    assert refused.value.see == knit_id
    assert (await store.runs.get(run.summary.run_id)).summary.status is S.DONE


async def test_its_maker_can_be_retried(store: AnyStore) -> None:
    """Which makes another Data; the purged one is gone then."""
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    knit_id = await pushed(store)
    await drain(store)
    run = await run_of(store, knit_id)
    await end(store, RunKey(run.summary.run_id, 1))
    made = only(run.outputs).knit_id
    assert made is not None
    await store.data.purge(made)
    again = await store.runs.retry(run.summary.run_id)
    assert only(again.outputs).knit_id not in (None, made)


async def test_what_was_adopted_is_only_forgotten(store: AnyStore) -> None:
    """Adopted again, it is another Data."""
    [first] = await store.adoptions.adopt([Adoption("/srv/big", tags("k:a"))])
    purge = await store.data.purge(first.data.knit_id)
    assert (purge.is_new, purge.volume) == (True, None)
    assert purge.data.adopted_volume == "/srv/big"
    assert await store.adoptions.known(["/srv/big"]) == {}
    [again] = await store.adoptions.adopt([Adoption("/srv/big")])
    assert again.is_new
    assert await store.runs.delete(first.data.upstream.run.run_id) == []


@pytest.mark.patient
async def test_a_purge_and_a_new_reader_exclude_each_other(store: AnyStore) -> None:
    """Whoever comes first: never is a Data purged that a Run or a transfer reads."""
    plan = await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}))
    for number in range(8):
        knit_id = await pushed(store)
        outcomes = await asyncio.gather(
            store.data.purge(knit_id),
            drain(store),
            store.transfers.begin_download(f"r{number}", knit_id),
            return_exceptions=True,
        )
        for one in outcomes:
            assert not isinstance(one, BaseException) or isinstance(one, KnitError), one
        data = await store.data.get(knit_id)
        reading = [one for one in data.downstreams if not one.run.status.is_final]
        reading += [] if isinstance(outcomes[2], BaseException) else [outcomes[2]]
        assert (PURGED in data.tags) != bool(reading)
    assert plan
