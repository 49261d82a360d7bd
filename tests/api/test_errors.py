"""Every failure is one answer of the declared shape; parts that are away are 503 with advice."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from knit_api.accounts.loopback import BindRefused, check_bind
from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from knit_api.error_responses import response_for
from knit_api.errors import HttpProblem
from knit_workflows.domain import errors as domain
from knit_workflows.domain.hooks import HooksSource
from tests.api.access import nobody_asks
from tests.api.fake_transfers import UNKNOWN, FakeTransfers
from tests.api.test_catalogue import refused
from tests.memory_store import MemoryStore


def all_errors(kind: type[domain.KnitError] = domain.KnitError) -> list[type[domain.KnitError]]:
    return [kind, *(one for sub in kind.__subclasses__() for one in all_errors(sub))]


FAMILIES = {
    domain.InvalidRequest: 400,
    domain.NotFound: 404,
    domain.Conflict: 409,
    domain.StorageFull: 507,
    domain.StoreFull: 507,
    domain.EngineFull: 507,
    domain.Unavailable: 503,
    domain.KnitError: 500,
}


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_domain_error_has_a_status_a_reason_and_advice(kind):
    response = response_for(kind())
    wanted = next(status for family, status in FAMILIES.items() if issubclass(kind, family))
    assert response.status_code == wanted
    assert b'"reason"' in response.body
    assert b'"advice"' in response.body
    needs_time = wanted == 503 or kind is domain.UploadInProgress
    assert ("retry-after" in response.headers) == needs_time


def test_who_is_too_busy_asks_for_a_longer_pause():
    """To ask sooner would only add to what there is to do."""
    busy, away = (
        response_for(kind()).headers["retry-after"] for kind in (domain.Busy, domain.Unavailable)
    )
    assert int(busy) > int(away)


def test_what_an_error_says_itself_comes_first():
    body = response_for(domain.EquivalentPlan("there is one", advice="look", see="42")).body
    assert body == b'{"message":{"reason":"there is one","advice":"look","see":"42"}}\n'


def test_http_problems_keep_their_headers():
    response = response_for(HttpProblem(415, "no", "yes", {"Accept": "x"}))
    assert (response.status_code, response.headers["accept"]) == (415, "x")


async def test_a_bug_is_logged_and_answered_without_its_text(client, store, caplog):
    store.memory.broken = RuntimeError("password=hunter2")
    with caplog.at_level(logging.ERROR):
        message = await refused(client.get("/data"), 500)
    assert message["reason"] == "unexpected error"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.action == "request_failed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/data"), ("PUT", f"/data/{UNKNOWN}"), ("GET", f"/data/{UNKNOWN}"),
        ("GET", "/plans"), ("GET", f"/plans/{UNKNOWN}"), ("PUT", f"/plans/{UNKNOWN}/active"),
        ("GET", "/runs"), ("GET", f"/runs/{UNKNOWN}"), ("GET", f"/runs/{UNKNOWN}/log"),
        ("GET", f"/runs/{UNKNOWN}/events"), ("PUT", f"/runs/{UNKNOWN}/abort"),
    ],
)  # fmt: skip
async def test_while_the_store_is_away_everything_is_503(client, store, method, path):
    store.memory.broken = domain.StoreUnavailable()
    content = b"{}" if method == "PUT" else None
    await refused(client.request(method, path, content=content), 503)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "http://x/", 404), ("GET", "http://x/api", 404), ("GET", "http://x/api/nope", 404),
        ("DELETE", "http://x/api/data", 405), ("PATCH", "http://x/api/plans/", 405),
        ("POST", "http://x/api/runs", 405), ("GET", "http://x//", 404),
    ],
)  # fmt: skip
async def test_unknown_routes_and_methods(client, method, path, status):
    message = await refused(client.request(method, path), status)
    assert message["reason"] in ("Not Found", "Method Not Allowed")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/data", "GET, POST"), (f"/data/{UNKNOWN}/", "GET, PUT"), ("/plans", "GET, POST"),
        (f"/plans/{UNKNOWN}/active", "DELETE, PUT"), ("/version", "GET"),
        (f"/data/{UNKNOWN}/metadata", "GET"),
    ],
)  # fmt: skip
async def test_405_names_every_method_there_is(client, path, allowed):
    """HEAD and OPTIONS are not among them, as in the contract."""
    for method in ("PATCH", "HEAD", "OPTIONS"):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


# --- parts that come and go ---


async def ask(deps: Deps, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.get(path)


@pytest.mark.patient
async def test_the_api_starts_without_its_parts_and_recovers_by_itself(
    store: MemoryStore, transfers: FakeTransfers
):
    there = False

    async def connect_store() -> MemoryStore:
        if not there:
            raise OSError("connection refused")
        return store

    async def connect_transfers() -> FakeTransfers:
        if not there:
            raise RuntimeError("Failed client connect")
        return transfers

    deps = Deps(
        store=Lazy(connect_store, domain.StoreUnavailable, pause=0.05),
        transfers=Lazy(connect_transfers, domain.EngineUnavailable, pause=0.05),
        accounts=nobody_asks(),
    )
    assert (await ask(deps, "/healthz")).status_code == 200
    for _ in range(3):
        await refused(ask(deps, "/api/data"), 503)
    message = await refused(ask(deps, "/readyz"), 503)
    assert "store: " in message["reason"]
    assert "engine: " in message["reason"]
    there = True
    await asyncio.sleep(0.06)
    assert (await ask(deps, "/api/data")).status_code == 200
    ready = await ask(deps, "/readyz")
    assert (ready.status_code, ready.json()) == (200, {"parts": {"store": "ok", "engine": "ok"}})
    await deps.aclose()


async def test_a_refused_hooks_file_is_told_by_an_api_that_stays_ready(
    client: httpx.AsyncClient, store: MemoryStore
):
    source = HooksSource("1@one", "hooks.yaml", "")
    await store.hooks.follow(source, "hooks.yaml, line 3: no host")
    ready = await client.get("http://x/readyz")
    parts = {"store": "ok", "engine": "ok", "hooks": "hooks.yaml, line 3: no host"}
    assert (ready.status_code, ready.json()) == (200, {"parts": parts})
    await store.hooks.follow(replace(source, digest="ab" * 32))
    assert "hooks" not in (await client.get("http://x/readyz")).json()["parts"]
    await store.hooks.follow(HooksSource("2@two", "hooks.yaml", "cd" * 32))
    told = (await client.get("http://x/readyz")).json()["parts"]["hooks"]
    assert told.startswith("workers follow different hooks files, 1@one (hooks.yaml, abababababab)")


async def test_a_part_is_connected_once_however_many_wait(store: MemoryStore):
    attempts = 0

    async def connect() -> MemoryStore:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0.05)
        return store

    lazy = Lazy(connect, domain.StoreUnavailable)
    got = await asyncio.gather(*(lazy.get() for _ in range(20)))
    assert attempts == 1
    assert set(map(id, got)) == {id(store)}


async def test_the_advice_of_a_part_is_kept_for_those_who_are_refused_at_once():
    async def connect() -> None:
        raise domain.StoreUnavailable("the database has no tables", advice="migrate it")

    lazy = Lazy(connect, domain.StoreUnavailable)
    for _ in range(3):
        with pytest.raises(domain.StoreUnavailable) as caught:
            await lazy.get()
        assert caught.value.advice == "migrate it"


async def test_a_part_that_never_answers_does_not_hold_requests_long():
    lazy = Lazy(lambda: asyncio.sleep(60), domain.StoreUnavailable, timeout=0.1)
    async with asyncio.timeout(30):
        for _ in range(5):
            with pytest.raises(domain.StoreUnavailable):
                await lazy.get()


async def test_not_ready_names_the_part(client, store, transfers):
    transfers.broken = domain.EngineUnavailable("Temporal does not answer")
    message = await refused(client.get("http://x/readyz"), 503)
    assert message["reason"] == "engine: Temporal does not answer"


# --- the version, who may call ---


async def test_the_version(client):
    assert (await client.get("/version")).json()["version"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_permission(host):
    check_bind(host, required=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_what_others_can_reach_does(host):
    with pytest.raises(BindRefused, match="KNIT_ACCOUNTS__REQUIRED"):
        check_bind(host, required=False)
    check_bind(host, required=True)


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:8080", 200), ("evil.test:8080", 403)],
)
async def test_on_loopback_the_api_answers_to_loopback_names_only(deps, host, status):
    without = replace(deps, accounts=nobody_asks())
    app: FastAPI = create_app(without, loopback_names_only=True)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        response = await client.get("/api/data", headers={"Host": host})
    assert response.status_code == status
