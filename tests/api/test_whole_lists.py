"""Lists without `limit`: all there is, once, in parts; cut off visibly when something fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from pydantic_core import to_json

from knit_api import whole_lists
from knit_cli.api.requests import Requests
from knit_cli.api.retry import Retry
from knit_cli.errors import ConnectionCut
from knit_workflows.domain.accounts.principals import Role
from knit_workflows.domain.data import DataQuery, TagChange
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.wire.data import Data
from knit_workflows.wire.mapping import ToWire
from tests.api.live_server import talk, unchunked
from tests.api.test_accounts import a_token, bearer
from tests.api.test_framing import checked, raw
from tests.memory_store import MemoryStore

X, Y = Tag("project", "x"), Tag("project", "y")


class Watched:
    """A part of the store that counts what it gives at once; `between` is told of each part."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.most = 0
        self.parts = 0
        self.between: Callable[[int], Awaitable[object]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    async def find(self, *query: Any, **bounds: Any) -> Sequence[Any]:
        return self._counted(await self._part.find(*query, **bounds))

    async def get_each(self, ids: Sequence[str]) -> Sequence[Any]:
        if self.between is not None:
            await self.between(self.parts)
        self.parts += 1
        return self._counted(await self._part.get_each(ids))

    def _counted(self, found: Sequence[Any]) -> Sequence[Any]:
        self.most = max(self.most, len(found))
        return found


@pytest.fixture
def data(store: MemoryStore) -> Watched:
    watched = Watched(store.data)
    store.data = watched  # type: ignore[assignment]
    return watched


@pytest.fixture
def runs(store: MemoryStore) -> Watched:
    watched = Watched(store.runs)
    store.runs = watched  # type: ignore[assignment]
    return watched


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_lists, "PART", 2)


@pytest.mark.patient
async def test_never_more_than_a_thousand_are_in_memory(client, store, data, runs):
    """And all parts together are byte by byte what one answer was."""
    for number in range(2_500):
        store.add_run(RunStatus.FAILED if number % 3 else RunStatus.DONE, log=True)
    whole = await store.data.find(DataQuery()), await store.runs.find(RunQuery())
    assert len(whole[0]) == 5_000
    data.most = runs.most = 0
    found = await client.get("/data")
    assert found.headers["content-type"] == "application/json"
    assert found.content == to_json([ToWire().data(one) for one in whole[0]]) + b"\n"
    found = await client.get("/runs")
    assert found.content == to_json([ToWire().run(one) for one in whole[1]]) + b"\n"
    assert (data.most, runs.most) == (1_000, 1_000)


@pytest.mark.usefixtures("two_at_once")
@pytest.mark.parametrize("count", range(1, 6))
async def test_a_list_of_any_length_is_an_array(client, store, data, runs, count):
    for number in range(count):
        store.add_run(RunStatus.DONE, image=f"work:{number}")
    for path, more in (("/data", 0), ("/runs", 0), ("/plans", 2)):
        answer = await client.get(path)
        assert len(answer.json()) == count + more
        assert answer.text.endswith("]\n")
        assert "x-next-cursor" not in answer.headers
    assert max(data.most, runs.most) <= 2
    first = await client.get("/data?limit=1")
    if count > 1:
        rest = await client.get("/data", params={"cursor": first.headers["x-next-cursor"]})
        assert len(rest.json()) == count - 1


@pytest.mark.usefixtures("two_at_once")
@pytest.mark.parametrize(("path", "name"), [("/data", "knitId"), ("/runs", "runId")])
async def test_what_moves_meanwhile_is_there_once(client, store, data, runs, path, name):
    """Data that are finished, Runs that change; and new ones, which are not."""
    for status in (RunStatus.DONE, RunStatus.RUNNING):
        for _ in range(4):
            store.add_run(status)
    there = [one[name] for one in (await client.get(f"{path}?limit=1000")).json()]
    assert len(there) == 8

    async def busily(parts: int) -> None:
        store.add_run(RunStatus.DONE)
        for one in await store.runs.find(RunQuery(statuses=frozenset({RunStatus.RUNNING}))):
            if parts and (one.outputs[0].knit_id in there[-2:] or one.summary.run_id in there[-2:]):
                store.set_status(one.summary.run_id, RunStatus.DONE)

    data.between = runs.between = busily
    found = (await client.get(path)).json()
    assert [one[name] for one in found] == there
    assert data.parts + runs.parts == 4
    statuses = [one.get("upstream", {}).get("run", one)["status"] for one in found]
    assert statuses == ["done"] * 4 + ["running"] * 2 + ["done"] * 2


@pytest.mark.usefixtures("two_at_once")
async def test_what_is_deleted_meanwhile_is_left_out(client, store, data, runs):
    made = [store.add_run(RunStatus.DONE) for _ in range(4)]
    ids = [one.summary.run_id for one in made]

    async def deleting(parts: int) -> None:
        for run_id in ids:
            if run_id in store.memory.runs:
                await store.runs.delete(run_id)

    data.between = runs.between = deleting
    assert (await client.get("/data")).text == "[]\n"
    for _ in range(4):
        store.add_run(RunStatus.DONE)
    ids[:] = await store.runs.find_ids(RunQuery())
    assert (await client.get("/runs")).text == "[]\n"


async def fails(_: int) -> None:
    raise StoreUnavailable("the database is gone")


@pytest.mark.usefixtures("two_at_once")
async def test_a_failure_before_the_first_byte_has_a_status(client, store, data):
    for _ in range(5):
        store.add_run(RunStatus.DONE)
    data.between = fails
    assert (await client.get("/data")).status_code == 503


@pytest.fixture
def failing(store: MemoryStore, data: Watched, two_at_once: None) -> None:
    """The third part of a list of five Data fails."""
    for _ in range(5):
        store.add_run(RunStatus.DONE)

    async def between(parts: int) -> None:
        if parts % 3 == 2:
            data.parts += 1
            await fails(parts)

    data.between = between


@pytest.mark.usefixtures("failing")
async def test_a_failure_behind_the_first_part_cuts_the_body(port):
    answer = await talk(port, raw("GET", "/api/data", "1.1"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    content, _, complete = unchunked(body)
    assert not complete
    assert content.startswith(b"[{")


@pytest.mark.usefixtures("failing")
async def test_the_command_line_says_that_the_body_was_cut(port):
    """It asks for pages; but what it asks in one piece, it does not take in part either."""
    said: list[str] = []

    def read() -> object:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api") as http:
            requests = Requests(http, where="x", retry=Retry(lambda _: None, said.append))
            return requests.read("/data", (), list[Data], "cannot find Data")

    with pytest.raises(ConnectionCut) as cut:
        await asyncio.to_thread(read)
    assert "the connection to the API at" in cut.value.summary
    assert "was cut" in cut.value.summary
    assert cut.value.advice
    assert len(said) == 2


@pytest.mark.usefixtures("two_at_once")
async def test_over_http_1_0_a_list_has_a_length(port, store, monkeypatch):
    """A proxy that is cut would pass on the part as all there is."""
    for _ in range(5):
        store.add_run(RunStatus.DONE)
    over_1_1 = checked("GET", await talk(port, raw("GET", "/api/data", "1.1")))
    answer = await talk(port, raw("GET", "/api/data", "1.0"))
    assert b"content-length" in answer.partition(b"\r\n\r\n")[0].lower()
    assert checked("GET", answer) == over_1_1
    monkeypatch.setattr(whole_lists, "MAX_GATHERED", 1_000)
    status, body = checked("GET", await talk(port, raw("GET", "/api/data", "1.0")))
    assert status == 426
    assert b"proxy_http_version" in body


@pytest.mark.usefixtures("two_at_once")
@pytest.mark.parametrize("projects", [{X}, {X, Y}])
async def test_of_a_bound_caller_it_is_all_that_is_theirs(client, store, data, projects):
    """Be they bound to one project or to several; what leaves them meanwhile is left out."""
    tags = [{X}, {Y}, {X, Y}, set(), {X}, {X}]
    ids = []
    for some in tags:
        [output] = store.add_run(RunStatus.DONE).outputs
        await store.data.change_tags(output.knit_id, TagChange(add=frozenset(some)))
        ids.append(output.knit_id)
    text, _ = await a_token(store, Role.VIEWER, projects=frozenset(projects))
    theirs = [one for one, some in zip(ids, tags, strict=True) if projects & some]
    assert await found_by(client, text) == theirs

    async def leaving(parts: int) -> None:
        if parts == 1:
            await store.data.change_tags(ids[-1], TagChange(remove=frozenset({X})))

    data.parts, data.between = 0, leaving
    assert await found_by(client, text) == theirs[:-1]


async def found_by(client: httpx.AsyncClient, token: str) -> list[str]:
    answer = await client.get("/data", headers=bearer(token))
    return [one["knitId"] for one in answer.json()]


@pytest.mark.usefixtures("two_at_once")
async def test_of_a_bound_caller_plans_come_in_parts_too(client, store):
    watched = Watched(store.plans)
    store.plans = watched
    plans = [f"{name}:1" for name in "abcdefg"]
    for place, image in enumerate(plans):
        project = "project:x" if place % 2 else "project:y"
        store.add_run(RunStatus.DONE, image=image, outputs={"/out": project})
    text, _ = await a_token(store, Role.VIEWER, projects=frozenset({X}))
    whole = (await client.get("/plans", headers=bearer(text))).json()
    assert {one["image"] for one in whole} == {"b:1", "d:1", "f:1"}
    assert len((await client.get("/runs", headers=bearer(text))).json()) == 3
    page = await client.get("/plans?limit=2", headers=bearer(text))
    assert page.json() == whole[:2]
    cursor = page.headers["x-next-cursor"]
    rest = await client.get("/plans", params={"cursor": cursor}, headers=bearer(text))
    assert rest.json() == whole[2:]
    assert watched.most <= 3  # a page, and one more to see whether another follows
