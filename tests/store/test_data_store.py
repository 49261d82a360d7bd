"""What the API asks of Data: orders, filters, pages, details, changes of tags."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from knit_workflows.domain.data import DataQuery, TagChange
from knit_workflows.domain.errors import (
    InvalidRequest,
    InvalidTag,
)
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.store import PostgresStore
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.data.search import DataSearch
from tests.postgres import blocks_somebody
from tests.store.build import (
    begin,
    end,
    fetch,
    tags,
    upload,
)
from tests.waiting import until

NOWHERE = "11111111-1111-4111-8111-111111111111"
S = RunStatus


async def found(store: PostgresStore, text: str = "", **more: object) -> list[str]:
    query = DataQuery(tags=tuple(tags(text)), **more)  # type: ignore[arg-type]
    return [one.knit_id for one in await store.data.find(query)]


async def test_data_come_by_time_then_id_unfinished_last(store: PostgresStore, url: str) -> None:
    finished = [await upload(store) for _ in range(4)]
    growing = [(await begin(store))[1] for _ in range(3)]
    fetch(
        url,
        "UPDATE data SET timestamp = (SELECT max(timestamp) FROM data) WHERE knit_id = ANY(%s)",
        finished[1:3],
    )
    fetch(
        url,
        "UPDATE data SET timestamp = timestamp + interval '1s' WHERE knit_id = %s",
        finished[0],
    )
    order = [*sorted(finished[1:]), finished[0], *sorted(growing)]
    assert await found(store) == order
    for limit in (1, 2, 3, 10):
        seen: list[str] = []
        after = None
        while page := await store.data.find(DataQuery(), limit=limit, after=after):
            assert len(page) <= limit
            seen += [one.knit_id for one in page]
            after = seen[-1]
        assert seen == order
    rest = await store.data.find(DataQuery(), after=order[1])
    assert [one.knit_id for one in rest] == order[2:]
    with pytest.raises(InvalidRequest):
        await store.data.find(DataQuery(), after=NOWHERE)


class Interrupted(Session):
    """Something happens before one of the statements."""

    def __init__(self, inner: Session, turn: int, happens: Callable[[], Awaitable[object]]) -> None:
        self._inner = inner
        self._turn = turn
        self._happens = happens

    async def rows(self, query: str, params: Any = None) -> list[Any]:
        """Runs a statement."""
        self._turn -= 1
        if self._turn == 0:
            await self._happens()
        return await self._inner.rows(query, params)


@pytest.mark.parametrize("limit", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("turn", [1, 2])
async def test_a_data_that_becomes_done_meanwhile_is_found_once(
    store: PostgresStore, url: str, limit: int | None, turn: int
) -> None:
    done = await upload(store)
    (key, growing), (_, other) = await begin(store), await begin(store)
    database = Database(url, 1)

    async def read(session: Session) -> list[str]:
        interrupted = Interrupted(session, turn, lambda: end(store, key))
        return await DataSearch(DataQuery(), []).page(interrupted, None, limit)

    page = await database.reading(read)
    await database.aclose()
    growing_at = 1 if turn == 1 else 1 + (other < growing)
    whole = [done, other]
    whole.insert(growing_at, growing)
    assert page == whole[:limit]


async def test_a_tag_that_no_database_can_hold_is_refused(store: PostgresStore) -> None:
    """Half of a UTF-16 pair, which YAML and Python let pass."""
    with pytest.raises(InvalidTag, match="is not valid Unicode"):
        await store.data.find(DataQuery(tags=(Tag("name", "\ud800"),)))


async def test_a_cursor_of_no_run_is_refused(store: PostgresStore) -> None:
    with pytest.raises(InvalidRequest, match=f"{NOWHERE} is not the id of a Run") as refused:
        await store.runs.find(RunQuery(), after=NOWHERE)
    assert refused.value.advice == "start again without a cursor"


async def test_equal_tags_at_once_are_stored_once(store: PostgresStore, url: str) -> None:
    data = [await upload(store) for _ in range(8)]
    wanted = tags(" ".join(f"k{n}:v" for n in range(20)))
    await asyncio.gather(*(store.data.change_tags(one, TagChange(add=wanted)) for one in data))
    assert len(fetch(url, "SELECT * FROM tag")) == 20
    assert len(fetch(url, "SELECT * FROM data_tag")) == 160


@pytest.mark.patient
async def test_data_of_a_tag_come_by_time_whenever_it_was_added(
    store: PostgresStore, url: str
) -> None:
    """Before the Data was finished, after it, and by a transaction that its end waits for."""
    key, data = await begin(store)
    await store.data.change_tags(data, TagChange(add=tags("before:x")))
    await store.execution.advance(key, RunStatus.COMPLETING, cause="test")
    add = "INSERT INTO data_tag SELECT tag_id, %s FROM tag WHERE key = 'during'"
    await store.data.change_tags(
        await upload(store, "during:x"), TagChange(remove=tags("during:x"))
    )
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM data WHERE knit_id = %s FOR NO KEY UPDATE", [data])
        ending = asyncio.create_task(store.execution.finalize(key, cause="test"))
        await until(lambda: blocks_somebody(url, connection))
        connection.execute(add, [data])
    await ending
    await store.data.change_tags(data, TagChange(add=tags("after:x")))
    await upload(store, "before:x during:x after:x")
    for tag in ("before:x", "during:x", "after:x", "before:x during:x after:x"):
        first = await store.data.find(DataQuery(tags=tuple(tags(tag))), limit=1)
        assert [one.knit_id for one in first] == [data]
    stamps = fetch(url, "SELECT DISTINCT timestamp FROM data_tag WHERE knit_id = %s", data)
    assert len(stamps) == 1
