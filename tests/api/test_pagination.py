"""Lists in pages, on either store: plain arrays, and headers that say where to go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from knit_api.deps import Deps, Lazy
from knit_workflows.domain.errors import Unavailable
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.store import PostgresStore
from tests.api.access import nobody_asks
from tests.api.test_catalogue import refused
from tests.memory_store import MemoryStore
from tests.postgres import Databases
from tests.store.build import begin, upload

PLAN: dict[str, Any] = {
    "inputs": [{"path": "/in", "tags": ["type:x"]}],
    "outputs": [{"path": "/out", "tags": ["type:y"]}],
}


@pytest.fixture(
    scope="module", params=["memory", pytest.param("postgres", marks=pytest.mark.patient)]
)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PostgresStore]:
    """Seven uploads and five Plans."""
    async with AsyncExitStack() as stack:
        store: Any = MemoryStore()
        if request.param == "postgres":
            databases: Databases = request.getfixturevalue("databases")
            store, _ = await stack.enter_async_context(databases.store())
        for _ in range(5):
            await upload(store, "k:v&w+é")
        for _ in range(2):
            await begin(store)
        for number in range(5):
            plan = parse_plan({**PLAN, "image": f"memory/p{number}:v1"})
            await store.plans.register(plan, new_runs_limit=None)
        yield store


@pytest.fixture
async def client(one_app: FastAPI, store: PostgresStore) -> AsyncIterator[httpx.AsyncClient]:
    deps = Deps(Lazy.of(store), Lazy(away, Unavailable), nobody_asks())
    one_app.state.deps = deps
    transport = httpx.ASGITransport(one_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as client:
        yield client
    await deps.aclose()


async def away() -> None:
    raise Unavailable


@pytest.mark.parametrize(
    "path", ["/data", "/data?tag=k:v%26w%2B%C3%A9&tag=k:v%26w%2B%C3%A9", "/plans/", "/runs"]
)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 1000])
async def test_all_pages_together_are_the_whole_list(client, path, limit) -> None:
    whole = (await client.get(path)).json()
    assert len(whole) >= 5
    seen, pages = [], 0
    target = f"{path}{'&' if '?' in path else '?'}limit={limit}"
    while target:
        answer = await client.get(target)
        page = answer.json()
        assert len(page) <= limit
        seen += page
        pages += 1
        link = answer.links.get("next")
        assert (link is None) == ("x-next-cursor" not in answer.headers)
        target = link and link["url"].removeprefix("/api")
    assert seen == whole
    assert pages == -(-len(whole) // limit)


async def test_the_cursor_alone_gives_the_rest(client) -> None:
    whole = (await client.get("/runs")).json()
    first = await client.get("/runs?limit=2")
    rest = await client.get("/runs", params={"cursor": first.headers["x-next-cursor"]})
    assert rest.json() == whole[2:]
    assert "x-next-cursor" not in rest.headers
    bare = await client.get("/data?limit=2")
    by_id = await client.get("/data", params={"cursor": bare.json()[-1]["knitId"], "limit": 1})
    assert by_id.json() == (await client.get("/data")).json()[2:3]


async def test_a_list_that_can_have_nothing_has_no_next_page(client) -> None:
    answer = await client.get("/runs?plan=nope&limit=1")
    assert answer.json() == []
    assert "link" not in answer.headers


@pytest.mark.parametrize("path", ["/data", "/plans", "/runs"])
@pytest.mark.parametrize(
    "query",
    [
        "limit=", "cursor=",
        "limit=0", "limit=1001", "limit=-1", "limit=x", "limit=1e2", "limit=%D9%A3",
        "limit=" + "9" * 5000,
        "cursor=x", "cursor=%00", "cursor=1.2", "cursor=99999999999999.",
        "cursor=' OR true", "limit=1&cursor=9" + "a0b0c0d0-0000-4000-8000-000000000000",
    ],
)  # fmt: skip
async def test_bounds_that_are_none(client, path, query) -> None:
    await refused(client.get(f"{path}?{query}"), 400)


async def test_the_metadata_of_one_data(client) -> None:
    for one in (await client.get("/data")).json():
        assert (await client.get(f"/data/{one['knitId']}/metadata")).json() == one
    await refused(client.get("/data/00000000-0000-4000-8000-00000000ffff/metadata/"), 404)
