"""What a caller who is bound to projects sees and changes; others' things do not exist for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from knit_workflows.domain.accounts import jws
from knit_workflows.domain.accounts.principals import Role
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.imports import Import, ImportTimes, import_of
from knit_workflows.domain.plans.model import PlanQuery
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag, parse_tag
from knit_workflows.domain.volumes import Volume
from tests.api.access import BEARER
from tests.api.archives import HELLO, tar_of
from tests.api.fake_transfers import FakeTransfers
from tests.api.test_accounts import TAR, a_token, bearer
from tests.api.test_downloads import a_data
from tests.memory_store import MemoryStore

X, Y = Tag("project", "x"), Tag("project", "y")
Ask = Callable[..., Any]


@pytest.fixture
async def anybody(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as client:
        yield client


async def tagged(store: MemoryStore, transfers: FakeTransfers, *tags: str) -> KnitId:
    """A Data of a Plan of others, with these tags."""
    knit_id = KnitId(a_data(store, transfers))
    await store.data.change_tags(knit_id, TagChange(add=frozenset(map(parse_tag, tags))))
    return knit_id


@dataclass
class World:
    """Data of x, of y and of nobody; a Plan of x and its Run, and one of others that read x."""

    x: KnitId
    y: KnitId
    plan: str
    run: str
    foreign_plan: str
    foreign_run: str
    made_by_others: KnitId


def plan(image: str, in_tag: str, out_tag: str, **more: Any) -> dict[str, Any]:
    return {
        "image": f"{image}:v1",
        "inputs": [{"path": "/in", "tags": in_tag.split()}],
        "outputs": [{"path": "/out", "tags": out_tag.split()}],
        **more,
    }


@pytest.fixture
async def world(store: MemoryStore, transfers: FakeTransfers, client: httpx.AsyncClient) -> World:
    x = await tagged(store, transfers, "project:x", "type:raw")
    y = await tagged(store, transfers, "project:y", "type:raw")
    mine = await client.post("/plans", json=plan("mine", "project:x type:raw", "project:x k:m"))
    theirs = await client.post("/plans", json=plan("theirs", "type:raw", "type:other"))
    ids = [mine.json()["planId"], theirs.json()["planId"]]
    runs = {
        one["plan"]["planId"]: one["runId"]
        for one in (await client.get("/runs", params={"knitIdInput": x})).json()
    }
    for run_id in runs.values():
        store.set_status(run_id, RunStatus.DONE)
    [output] = (await store.runs.get(runs[ids[1]])).outputs
    assert output.knit_id is not None
    await store.data.change_tags(output.knit_id, TagChange(add=frozenset({X})))
    return World(x, y, ids[0], runs[ids[0]], ids[1], runs[ids[1]], output.knit_id)


@pytest.fixture
async def bound(anybody: httpx.AsyncClient, store: MemoryStore) -> httpx.AsyncClient:
    """An operator who is bound to x."""
    text, _ = await a_token(store, Role.OPERATOR, projects=frozenset({X}))
    anybody.headers.update(bearer(text))
    return anybody


async def test_only_what_is_theirs_is_listed(bound: httpx.AsyncClient, world: World) -> None:
    found = {one["knitId"] for one in (await bound.get("/data")).json()}
    assert {world.x, world.made_by_others} < found
    assert world.y not in found
    assert [one["planId"] for one in (await bound.get("/plans")).json()] == [world.plan]
    assert [one["runId"] for one in (await bound.get("/runs")).json()] == [world.run]
    assert (await bound.get("/runs", params={"plan": world.foreign_plan})).json() == []
    assert (await bound.get("/data", params={"tag": "project:y"})).json() == []
    assert (await bound.get("/completions", params={"of": "tags"})).json() == []


async def test_which_plans_are_theirs_is_found_without_their_neighbours(
    bound: httpx.AsyncClient, world: World, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked at nearly every request; only who asks for Plans is given their links."""

    async def refused(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("links of Plans are loaded")

    with monkeypatch.context() as patched:
        for name in ("find", "get"):
            patched.setattr(store.plans, name, refused)
        for path in ("/data", f"/data/{world.x}/metadata", "/runs", f"/runs/{world.run}"):
            assert (await bound.get(path)).status_code == 200
        assert (await bound.get(f"/plans/{world.foreign_plan}")).status_code == 404
    store.memory.asked.clear()
    assert len((await bound.get("/plans")).json()) == 1
    assert store.memory.asked == [PlanQuery(plan_ids=frozenset({world.plan}))]


async def test_pages_are_whole(bound: httpx.AsyncClient, world: World, store, transfers) -> None:
    mine = {world.x, world.made_by_others}
    for turn in range(5):
        mine.add(await tagged(store, transfers, "project:x"))
        await tagged(store, transfers, f"project:{turn}")
    whole = [one["knitId"] for one in (await bound.get("/data")).json()]
    assert mine < set(whole)
    paged, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = await bound.get("/data", params=query)
        paged += [one["knitId"] for one in page.json()]
        cursor = page.headers.get("x-next-cursor")
        if cursor is None:
            break
    assert paged == whole


async def test_neighbours_that_are_not_theirs_are_left_out(
    bound: httpx.AsyncClient, client: httpx.AsyncClient, world: World
) -> None:
    whole = (await client.get(f"/data/{world.x}/metadata")).json()
    assert len(whole["downstreams"]) == 2
    seen = (await bound.get(f"/data/{world.x}/metadata")).json()
    assert [one["run"]["runId"] for one in seen["downstreams"]] == [world.run]
    assert [one["plan"]["planId"] for one in seen["nomination"]] == [world.plan]
    made = (await bound.get(f"/data/{world.made_by_others}/metadata")).text
    assert "theirs" not in made
    assert "(of another project)" in made
    assert "theirs" not in (await bound.get(f"/plans/{world.plan}")).text


async def test_lineage_says_that_it_leaves_something_out(
    bound: httpx.AsyncClient, client: httpx.AsyncClient, world: World
) -> None:
    whole = (await client.get(f"/data/{world.x}/lineage")).json()
    seen = (await bound.get(f"/data/{world.x}/lineage")).json()
    assert "left_out" not in whole
    assert world.foreign_run in str(whole)
    assert world.foreign_run not in str([one["runId"] for one in seen["runs"]])
    assert world.run in [one["runId"] for one in seen["runs"]]
    assert seen["left_out"] == len(whole["runs"]) - len(seen["runs"]) + (
        len(whole["data"]) - len(seen["data"])
    )
    assert seen["left_out"] >= 1
    graph = (await bound.get(f"/data/{world.x}/lineage", params={"fields": "ids"})).json()
    assert graph["left_out"] == seen["left_out"]
    assert set(graph["runs"]) == {one["runId"] for one in seen["runs"]}
    known = {*graph["data"], *graph["runs"]}
    assert all({edge["from"], edge["to"]} <= known for edge in graph["edges"])


async def test_others_things_are_answered_as_things_that_do_not_exist(
    bound: httpx.AsyncClient, world: World, store: MemoryStore
) -> None:
    before = str(store.memory.runs), str(store.memory.data), str(store.memory.plans)
    asked = [
        ("GET", "/data/{}", world.y), ("GET", "/data/{}/metadata", world.y),
        ("GET", "/data/{}/lineage", world.y), ("PUT", "/data/{}", world.y),
        ("POST", "/data/{}/purge", world.y), ("POST", "/data/{}/purge?dry_run=true", world.y),
        ("GET", "/plans/{}", world.foreign_plan), ("PUT", "/plans/{}/active", world.foreign_plan),
        ("DELETE", "/plans/{}/active", world.foreign_plan),
        ("PUT", "/plans/{}/resources", world.foreign_plan),
        ("PUT", "/plans/{}/annotations", world.foreign_plan),
        ("PUT", "/plans/{}/serviceaccount", world.foreign_plan),
        ("DELETE", "/plans/{}/serviceaccount", world.foreign_plan),
        ("PUT", "/plans/{}/priority", world.foreign_plan),
        ("GET", "/runs/{}", world.foreign_run), ("GET", "/runs/{}/events", world.foreign_run),
        ("GET", "/runs/{}/timing", world.foreign_run),
        ("GET", "/runs/{}/log", world.foreign_run), ("PUT", "/runs/{}/abort", world.foreign_run),
        ("PUT", "/runs/{}/tearoff", world.foreign_run),
        ("PUT", "/runs/{}/retry", world.foreign_run), ("DELETE", "/runs/{}", world.foreign_run),
    ]  # fmt: skip
    bodies = {
        "/plans/{}/serviceaccount": {"service_account": "x"},
        "/plans/{}/priority": {"priority": 1},
    }
    for method, path, one in asked:
        unknown = str(uuid4())
        body = bodies.get(path, {}) if method == "PUT" else None
        theirs = await bound.request(method, path.format(one), json=body)
        nobodys = await bound.request(method, path.format(unknown), json=body)
        assert (theirs.status_code, nobodys.status_code) == (404, 404), (path, theirs.text)
        assert theirs.text.replace(one, "ID") == nobodys.text.replace(unknown, "ID"), path
    assert (str(store.memory.runs), str(store.memory.data), str(store.memory.plans)) == before


async def test_what_is_theirs_is_theirs_to_change(bound: httpx.AsyncClient, world: World) -> None:
    assert (await bound.get(f"/data/{world.x}")).status_code == 200
    assert (await bound.put(f"/plans/{world.plan}/priority", json={"priority": 3})).is_success
    assert (await bound.put(f"/runs/{world.run}/retry")).status_code == 200
    changed = await bound.put(f"/data/{world.x}", json={"add": ["note:1"], "remove": ["type:raw"]})
    assert "note:1" in changed.json()["tags"]


@pytest.mark.parametrize("change", [{"remove": ["project:x"]}, {"remove_key": ["project"]}])
async def test_a_data_cannot_be_taken_out_of_their_projects(
    bound: httpx.AsyncClient, world: World, store: MemoryStore, change: dict[str, Any]
) -> None:
    assert (await bound.put(f"/data/{world.x}", json=change)).status_code == 400
    assert X in (await store.data.get(world.x)).tags


async def test_what_they_push_belongs_to_their_project(
    bound: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    pushed = await bound.post("/data?tag=a:b", content=tar_of(HELLO), headers=TAR)
    assert {"a:b", "project:x"} < set(pushed.json()["tags"])
    run_id = pushed.json()["upstream"]["run"]["runId"]
    assert (await bound.get(f"/runs/{run_id}")).status_code == 200
    assert (await bound.get(f"/runs/{run_id}/events")).json()[0]["actor"] == "operator"
    begun = await bound.post("/data/import/begin")
    assert begun.status_code == 200
    newest = list(store.memory.data.values())[-1]
    assert X in newest.tags


async def an_import(
    bound: httpx.AsyncClient, client: httpx.AsyncClient, transfers: FakeTransfers
) -> tuple[str, Import]:
    """The token of an import that x has begun, of what a Plan of y would read."""
    made = await client.post("/plans", json=plan("theirs", "project:y k:in", "project:y"))
    assert made.status_code == 200, made.text
    text = (await bound.post("/data/import/begin")).text
    begun = import_of(jws.read(text).claims)
    changed = await client.put(f"/data/{begun.knit_id}", json={"add": ["project:y", "k:in"]})
    assert changed.status_code == 200, changed.text
    await transfers.backend.create_volume(Volume(begun.volume, begun.knit_id))
    return text, begun


@pytest.mark.parametrize("by", ["nobody", "another", "all"])
async def test_an_import_shows_what_is_theirs_whoever_ends_it(
    bound: httpx.AsyncClient, client: httpx.AsyncClient, app: FastAPI,
    store: MemoryStore, transfers: FakeTransfers, by: str,
) -> None:  # fmt: skip
    """By its own token, alone or beside credentials of others; be the Data still theirs or not."""
    text, begun = await an_import(bound, client, transfers)
    another, _ = await a_token(store, Role.VIEWER, name="z", projects=frozenset({Tag("z", "z")}))
    headers = {"nobody": {}, "another": bearer(another), "all": BEARER}[by]
    if by == "another":
        await client.put(f"/data/{begun.knit_id}", json={"remove": ["project:x"]})
    ended = await end_of_import(app, text, headers)
    assert ended.status_code == 200, ended.text
    assert (ended.json()["knitId"], ended.json()["nomination"]) == (begun.knit_id, [])
    whole = (await client.get(f"/data/{begun.knit_id}/metadata")).json()
    assert [one["plan"]["image"] for one in whole["nomination"]] == ["theirs:v1"]


async def test_the_token_of_an_older_import_shows_no_neighbours(
    bound: httpx.AsyncClient, client: httpx.AsyncClient, app: FastAPI,
    store: MemoryStore, transfers: FakeTransfers,
) -> None:  # fmt: skip
    """It does not say to which projects whoever began the import is bound."""
    _, begun = await an_import(bound, client, transfers)
    key = await store.imports.signing_key(ImportTimes())
    claims = {k: v for k, v in begun.claims("old").items() if k != "knit/projects"}
    ended = await end_of_import(app, jws.sign(claims, kid=key.kid, secret=key.secret), {})
    assert ended.status_code == 200, ended.text
    assert (ended.json()["nomination"], ended.json()["downstreams"]) == ([], [])


async def test_an_import_of_somebody_who_sees_all_shows_all(
    bound: httpx.AsyncClient, client: httpx.AsyncClient, app: FastAPI, transfers: FakeTransfers
) -> None:
    text, _ = await an_import(client, client, transfers)
    ended = await end_of_import(app, text, {})
    assert [one["plan"]["image"] for one in ended.json()["nomination"]] == ["theirs:v1"]


async def end_of_import(app: FastAPI, text: str, headers: dict[str, str]) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    headers = {"Content-Type": "application/jwt", **headers}
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as one:
        return await one.post("/data/import/end", content=text, headers=headers)


async def test_a_project_that_no_token_of_an_import_can_carry_is_refused_at_once(
    anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    for name, chars, status in (("long", 392, 200), ("longer", 393, 400)):
        projects = frozenset({Tag("project", "\N{GRINNING FACE}" * chars)})
        text, _ = await a_token(store, Role.OPERATOR, name=name, projects=projects)
        begun = await anybody.post("/data/import/begin", headers=bearer(text))
        assert begun.status_code == status
        if status == 200:
            assert jws.read(begun.text)


async def test_of_several_projects_one_must_be_named(
    anybody: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    text, _ = await a_token(store, Role.OPERATOR, name="both", projects=frozenset({X, Y}))
    anybody.headers.update(bearer(text))
    refused = await anybody.post("/data?tag=a:b", content=tar_of(HELLO), headers=TAR)
    assert refused.status_code == 400
    assert "project:x, project:y" in refused.json()["message"]["advice"]
    assert not transfers.open
    assert not store.memory.data
    pushed = await anybody.post("/data?tag=project:y", content=tar_of(HELLO), headers=TAR)
    assert pushed.status_code == 200
    assert parse_tag("project:x") not in map(parse_tag, pushed.json()["tags"])
    assert (await anybody.post("/data/import/begin")).status_code == 400
    await tagged(store, transfers, "project:x")
    assert len((await anybody.get("/data")).json()) == 2


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (plan("a", "project:x k:in", "project:x"), 200),
        (plan("a", "project:x k:in", "project:x", log={"tags": ["project:x"]}), 200),
        (plan("a", "project:x", "project:x", log={"tags": ["type:log"]}), 400),
        (plan("a", "type:raw", "project:x"), 400),
        (plan("a", "project:x", "type:raw"), 400),
        (plan("a", "project:y", "project:x"), 400),
    ],
)
async def test_their_plans_read_and_make_only_what_is_theirs(
    bound: httpx.AsyncClient, asked: dict[str, Any], status: int
) -> None:
    for path in ("/plans?dry_run=true", "/plans"):
        answer = await bound.post(path, json=asked)
        assert answer.status_code == status, answer.text
    if status == 400:
        assert "project:x" in answer.json()["message"]["advice"]


async def test_an_adoption_belongs_to_their_project_and_takes_nobodys(
    bound: httpx.AsyncClient, store: MemoryStore, client: httpx.AsyncClient, tmp_path: Any
) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    body = {"volumes": [{"volume": str(tmp_path / "mine"), "tags": ["a:b"]}]}
    adopted = await bound.post("/adoptions", json=body)
    if adopted.status_code != 200:
        pytest.fail(adopted.text)
    assert "project:x" in adopted.json()[0]["data"]["tags"]
    others = {"volumes": [{"volume": str(tmp_path / "theirs"), "tags": ["project:y"]}]}
    assert (await client.post("/adoptions", json=others)).status_code == 200
    refused = await bound.post("/adoptions", json=others)
    assert refused.status_code == 400
    dry = await bound.post("/adoptions", json={**others, "dry_run": True})
    assert dry.status_code == 404


@pytest.mark.parametrize("path", ["/hooks", "/hooks/deliveries", "/tokens", "/audit"])
async def test_what_knows_no_projects_is_refused(bound: httpx.AsyncClient, path: str) -> None:
    answer = await bound.get(path)
    assert answer.status_code == 403
