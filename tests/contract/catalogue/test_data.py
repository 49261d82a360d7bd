"""`DataStore`: orders, filters, pages, details, changes of tags."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.data import DataDetail, DataQuery, TagChange
from knit_workflows.domain.errors import DataNotFound, InvalidRequest, InvalidTag
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.instants import parse_instant
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import KEY_TIMESTAMP, Tag
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import begin, drain, end, only, register, spec, tags, upload

NOWHERE = "11111111-1111-4111-8111-111111111111"


async def test_data_are_found_by_all_their_tags(store: AnyStore) -> None:
    one = await upload(store, "k:a x:1")
    two = await upload(store, "k:a x:2")
    assert await found(store) == [one, two]
    assert await found(store, "k:a") == [one, two]
    assert await found(store, "k:a x:2") == [two]
    assert await found(store, "x:1 x:2") == []
    assert await found(store, "never:seen") == []


async def test_one_of_some_tags_can_be_kept_whoever_changes_them(store: AnyStore) -> None:
    """Two who each leave the tag that the other takes away: one of them is refused."""
    one, both = await upload(store, "p:a p:b x:1"), tags("p:a p:b")
    changes = [TagChange(remove=tags("p:a x:1")), TagChange(remove_keys=frozenset({"p"}))]
    outcomes = await asyncio.gather(
        *(store.data.change_tags(one, change, keeping=both) for change in changes),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], InvalidTag)
    assert not isinstance(outcomes[0], BaseException)
    kept = {tag for tag in (await store.data.get(one)).tags if not tag.is_system}
    assert kept == tags("p:b")
    more = TagChange(remove=tags("p:b"), add=tags("p:a"))
    assert Tag("p", "a") in (await store.data.change_tags(one, more, keeping=both)).tags


async def test_data_are_found_by_system_tags(store: AnyStore) -> None:
    one = await upload(store, "k:a")
    two = await upload(store, "k:a")
    _, growing = await begin(store)
    broken_key, broken = await begin(store)
    await end(store, broken_key, fail=True)
    assert await found(store, f"knit#id:{one}") == [one]
    assert await found(store, f"knit#id:{one} knit#id:{two}") == []
    assert await found(store, "knit#id:nothing") == []
    assert await found(store, "knit#transient:processing") == [growing]
    assert await found(store, "knit#transient:failed") == [broken]
    assert await found(store, "knit#transient:failed knit#transient:processing") == []
    assert await found(store, "knit#transient:other") == []
    assert await found(store, "knit#unknown:x") == []
    shown = timestamp_of(await store.data.get(one))
    fetch_same = await found(store, f"knit#timestamp:{shown} knit#id:{one}")
    assert fetch_same == [one]
    assert await found(store, "knit#timestamp:1999-01-01T00:00:00+09:00") == []


async def test_the_window_of_time_has_an_open_end(store: AnyStore) -> None:
    one = await upload(store)
    key, growing = await begin(store)
    at = await instant_of(store, one)
    moved = (await store.runs.get(key.run_id)).summary.updated_at
    assert await found(store, since=at) == [one, growing]
    assert await found(store, since=at, until=at + timedelta(milliseconds=1)) in (
        [one],
        [one, growing],
    )
    assert await found(store, until=at) == []
    assert growing in await found(store, since=moved, until=moved + timedelta(milliseconds=1))


async def test_a_data_shows_its_neighbours(store: AnyStore) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}, {"/out": "k:c"}))
    fitting = await register(store, spec({"/x": "k:a"}, image="other:1"))
    data = await upload(store, "k:a z:1")
    other = await upload(store, "k:b")
    await drain(store)
    detail = await store.data.get(data)
    assert list(detail.tags) == sorted(detail.tags)
    assert {(one.mountpoint.path, one.run.plan.plan_id) for one in detail.downstreams} == {
        ("/a", plan),
        ("/x", fitting),
    }
    assert {(one.mountpoint.path, one.plan.plan_id) for one in detail.nominations} == {
        ("/a", plan),
        ("/x", fitting),
    }
    await store.data.change_tags(data, TagChange(remove=tags("k:a")))
    detail = await store.data.get(data)
    assert detail.nominations == ()
    assert len(detail.downstreams) == 2
    run = only(one.run for one in (await store.data.get(other)).downstreams)
    made = only((await store.runs.get(run.run_id)).outputs).knit_id
    assert made is not None
    shown = await store.data.get(made)
    assert (shown.upstream.path, shown.upstream.tags) == ("/out", (Tag("k", "c"),))
    assert shown.upstream.run == run
    assert shown.nominations == ()


async def test_invalidated_runs_are_no_downstreams(store: AnyStore) -> None:
    await register(store, spec({"/a": "k:a"}))
    data = await upload(store, "k:a")
    await drain(store)
    (run,) = (one.run for one in (await store.data.get(data)).downstreams)
    await store.runs.delete(run.run_id)
    assert (await store.data.get(data)).downstreams == ()


@pytest.mark.parametrize("knit_id", [NOWHERE, "x", ""])
async def test_data_that_is_not_there(store: AnyStore, knit_id: str) -> None:
    with pytest.raises(DataNotFound):
        await store.data.get(KnitId(knit_id))
    with pytest.raises(DataNotFound):
        await store.data.change_tags(KnitId(knit_id), TagChange(add=tags("a:b")))


async def test_removals_come_before_additions(store: AnyStore) -> None:
    data = await upload(store, "v:1 v:2 k:a k:b keep:x")
    change = TagChange(
        add=tags("v:1 new:y"), remove=tags("k:a v:1 absent:z"), remove_keys=frozenset({"v", "no"})
    )
    for _ in range(2):
        detail = await store.data.change_tags(data, change)
        users = {str(tag) for tag in detail.tags if not tag.is_system}
        assert users == {"v:1", "new:y", "k:b", "keep:x"}


async def test_large_and_strange_tags(store: AnyStore) -> None:
    strange = frozenset(
        {Tag("", ""), Tag("k", "v" * 1_048_576), Tag("%s%(x)s", "'\"\\"), Tag("日本", "🐍\u3000x")}
    )
    data = await upload(store)
    detail = await store.data.change_tags(data, TagChange(add=strange))
    assert strange <= set(detail.tags)
    for tag in strange:
        query = DataQuery(tags=(tag,))
        assert [one.knit_id for one in await store.data.find(query)] == [data]


@pytest.mark.patient
async def test_pages_by_tags_and_time_join_into_the_whole_list(store: AnyStore) -> None:
    """Whatever the length of a page; done, failed and unfinished Data, with one tag or two."""
    made = [await upload(store, f"k:a n:{n % 2}") for n in range(6)]
    made += [(await begin(store))[1] for _ in range(3)]
    broken_key, broken = await begin(store)
    for one in [*made[-3:], broken]:
        await store.data.change_tags(one, TagChange(add=tags("k:a n:1")))
    await end(store, broken_key, fail=True)
    order = [*made[:6], broken, *sorted(made[6:])]
    whole = {"k:a": order, "k:a n:1": [*made[1:6:2], broken, *sorted(made[6:])]}
    for text, expected in whole.items():
        assert await found(store, text) == expected
        for limit in (1, 2, 4):
            query, seen = DataQuery(tags=tuple(tags(text))), list[str]()
            while page := await store.data.find(
                query, limit=limit, after=seen[-1] if seen else None
            ):
                seen += [one.knit_id for one in page]
            assert seen == expected
    at = await instant_of(store, made[4])
    assert set(await found(store, "k:a", since=at)) == {*order[4:]}
    assert await found(store, "k:a n:1 knit#transient:failed") == [broken]
    assert await found(store, f"k:a knit#id:{made[2]}") == [made[2]]


async def test_ids_alone_are_those_of_the_list(store: AnyStore) -> None:
    """By tags, after any of them, and of one of some tags; and each can be looked up by them."""
    made = [await upload(store, f"k:a n:{n % 3}") for n in range(5)]
    made.append((await begin(store))[1])
    await store.data.change_tags(made[-1], TagChange(add=tags("k:a n:1")))

    async def ids(text: str = "", **more: Any) -> list[str]:
        found = await store.data.find_ids(DataQuery(tags=tuple(tags(text))), **more)
        assert len(found) == len([*found])
        return [*found]

    for text in ("", "k:a", "k:a n:1", "never:seen", "knit#transient:processing"):
        assert await ids(text) == await found(store, text)
    for place, one in enumerate(made):
        assert await ids(after=one) == made[place + 1 :]
    cursor = str(Cursor(made[1], await instant_of(store, made[1])))
    assert await ids("k:a", after=cursor) == made[2:]
    n = [made[0], made[3]], [made[1], made[4], made[5]], [made[2]]
    assert await ids(among=tags("n:0 n:1 never:seen")) == sorted([*n[0], *n[1]], key=made.index)
    assert await ids("n:0", among=tags("n:2 n:1")) == []
    assert await ids("k:a n:1", among=tags("n:2 n:1"), after=made[1]) == n[1][1:]
    assert await ids("knit#transient:processing", among=tags("k:a n:1")) == [made[5]]
    assert await ids(among=tags("never:seen")) == []
    with pytest.raises(InvalidRequest):
        await ids(after=NOWHERE)
    reverse = [*reversed(await store.data.find_ids(DataQuery()))]
    asked = [*reverse[:2], NOWHERE, *reverse[2:]]
    assert [one.knit_id for one in await store.data.get_each(asked)] == [*reversed(made)]
    assert [one.knit_id for one in await store.data.get_each(reverse[1:3])] == reverse[1:3]
    assert [*await store.data.get_each([])] == []


async def test_what_one_run_made_has_one_time_and_comes_by_id(store: AnyStore) -> None:
    """Unfinished Data come last; pages begin behind any of them, and joined are the whole list."""
    await register(store, spec({"/in": "k:a"}, {"/x": "", "/y": "", "/z": ""}))
    first = await upload(store, "k:a")
    await drain(store)
    growing = [(await begin(store))[1] for _ in range(3)]
    (run,) = await store.runs.find(RunQuery(statuses=frozenset({RunStatus.WAITING})))
    await end(store, RunKey(run.summary.run_id, 1))
    made = sorted(one.knit_id for one in run.outputs if one.knit_id)
    order = [first, *made, *sorted(growing)]
    assert await found(store) == order
    for limit in (1, 2, 3, 10):
        seen: list[str] = []
        while page := await store.data.find(
            DataQuery(), limit=limit, after=seen[-1] if seen else None
        ):
            assert len(page) <= limit
            seen += [one.knit_id for one in page]
        assert seen == order
    with pytest.raises(InvalidRequest):
        await store.data.find(DataQuery(), after=NOWHERE)


async def test_a_data_that_is_deleted_between_two_pages_does_not_end_the_list(
    store: AnyStore,
) -> None:
    everything = [await upload(store) for _ in range(3)]
    assert await store.data.find(DataQuery(), after=str(Cursor(NOWHERE))) == []
    before = await instant_of(store, everything[0]) - timedelta(milliseconds=1)
    later = await store.data.find(DataQuery(), after=str(Cursor(NOWHERE, before)))
    assert [one.knit_id for one in later] == everything


async def test_tags_that_come_late_make_runs(store: AnyStore) -> None:
    """Of a Data that is done, at once; of one that is not, when it is."""
    await register(store, spec({"/a": "k:a"}))
    data = await upload(store)
    key, growing = await begin(store)
    for one in (data, growing):
        await store.data.change_tags(one, TagChange(add=tags("k:a")))
    await drain(store)
    assert len((await store.data.get(data)).downstreams) == 1
    assert (await store.data.get(growing)).downstreams == ()
    await end(store, key)
    await drain(store)
    assert len((await store.data.get(growing)).downstreams) == 1


def timestamp_of(detail: DataDetail) -> str:
    (value,) = (tag.value for tag in detail.tags if tag.key == KEY_TIMESTAMP)
    return value


async def instant_of(store: AnyStore, knit_id: KnitId) -> datetime:
    return parse_instant(timestamp_of(await store.data.get(knit_id)))


async def found(store: AnyStore, text: str = "", **more: object) -> list[str]:
    query = DataQuery(tags=tuple(tags(text)), **more)  # type: ignore[arg-type]
    return [one.knit_id for one in await store.data.find(query)]
