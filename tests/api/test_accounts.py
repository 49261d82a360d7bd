"""Who may do what: every endpoint for every role, and what is refused before it is looked at."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from knit_api.accounts.access import Accounts
from knit_api.accounts.matrix import MATRIX, OPEN_PATHS, OWN_TOKEN_PATHS
from knit_api.accounts.rates import Rates
from knit_api.accounts.verifiers import CACHE_SECONDS
from knit_api.deps import Deps
from knit_workflows.domain.accounts import jws
from knit_workflows.domain.accounts.principals import AuditQuery, NewToken, Role, TokenRecord
from knit_workflows.domain.accounts.tokens import digest_of, is_token, new_token, shown_prefix
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.imports import import_of
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import ExtraApisSettings
from knit_workflows.settings.extra_apis import ExtraApi
from tests.api.access import BEARER, TOKEN, enforced
from tests.api.archives import HELLO, tar_of
from tests.api.fake_transfers import FakeTransfers
from tests.api.upstreams import OK, sends, service
from tests.memory_store import MemoryStore

TAR = {"Content-Type": "application/x-tar"}
ROLES = tuple(Role)
SAFE = ("GET", "HEAD", "OPTIONS")


@pytest.fixture
async def anybody(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        yield client


async def a_token(store: MemoryStore, role: Role, **more: Any) -> tuple[str, TokenRecord]:
    text = new_token()
    asked = NewToken(
        more.pop("name", role.value), role, digest_of(text), shown_prefix(text), "a test", **more
    )
    return text, await store.tokens.create(asked)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def basic(text: str, user: str = "knit") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{text}".encode()).decode()}


def endpoints(app: FastAPI) -> Iterator[tuple[str, str, str]]:
    """Name, method and path of every route, those that no document mentions included."""
    for route in iter_route_contexts(app.routes):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield str(route.name), method, re.sub(r"\{\w+\}", str(uuid4()), str(route.path))


def same(answer: httpx.Response) -> dict[str, str]:
    message: dict[str, str] = answer.json()["message"]
    return message


# --- the matrix ---


def test_every_route_has_a_declared_role(app: FastAPI) -> None:
    """And no role is declared for what is not there."""
    names = {name for name, _, _ in endpoints(app)}
    assert names == set(MATRIX)
    assert len(names) > 40


def test_what_changes_something_or_gives_content_is_recorded(app: FastAPI) -> None:
    for name, method, _ in endpoints(app):
        assert MATRIX[name].recorded == (method not in SAFE or name in ("download_data", "run_log"))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.patient
async def test_each_endpoint_for_each_role(
    app: FastAPI, anybody: httpx.AsyncClient, store: MemoryStore, role: Role
) -> None:
    """Too low a role is told which it lacks; for a sufficient one the endpoint answers."""
    text, _ = await a_token(store, role)
    seen = set()
    for name, method, path in endpoints(app):
        needed = MATRIX[name].role
        answer = await anybody.request(method, path, headers=bearer(text))
        if needed is None or role.includes(needed):
            assert answer.status_code != 403, (name, answer.text)
            continue
        assert answer.status_code == 403, (name, answer.text)
        assert same(answer)["reason"] == (
            f"this needs the role {needed}; {role.value} has the role {role}"
        )
        seen.add(needed)
    assert seen == {one for one in ROLES if not role.includes(one)} - {Role.VIEWER}


async def test_without_credentials_nothing_but_health_and_metadata_answers(
    app: FastAPI, anybody: httpx.AsyncClient
) -> None:
    """Not even what does not exist. The end of an import has a token of its own."""
    asked = [(method, path) for _, method, path in endpoints(app)]
    asked += [("GET", "/"), ("GET", "/nothing"), ("PATCH", "/api/data"), ("GET", "/api/data?x=%ff")]
    for method, path in asked:
        answer = await anybody.request(method, path)
        if path in OPEN_PATHS:
            assert answer.status_code == 200, path
        elif path in OWN_TOKEN_PATHS:
            assert answer.status_code == 400, path
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == (
                'Bearer realm="knit", resource_metadata='
                '"http://api.test/.well-known/oauth-protected-resource"'
            )
            assert "knit login" in same(answer)["advice"]


async def test_a_route_without_a_declared_role_is_refused_to_everybody(
    deps: Deps, store: MemoryStore
) -> None:
    from knit_api.app import create_app

    app = create_app(deps)

    @app.get("/api/forgotten")
    async def forgotten() -> str:
        raise AssertionError("it must not be reached")

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=BEARER) as asks:
        assert (await asks.get("/api/forgotten")).status_code == 403


# --- credentials ---


async def test_whoever_calls_is_told_who(anybody: httpx.AsyncClient, store: MemoryStore) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    text, _ = await a_token(store, Role.VIEWER, name="ada", expires_at=expires)
    for headers in (bearer(text), basic(text), {"authorization": f"bEARER  {text} "}):
        answer = await anybody.get("/api/whoami", headers=headers)
        assert answer.json() == {
            "subject": "token:ada", "name": "ada", "role": "viewer", "projects": [],
            "expires": expires.isoformat(),
        }  # fmt: skip
    asked = await anybody.get("/api/whoami", headers=BEARER)
    assert (asked.json()["subject"], asked.json()["role"]) == ("bootstrap", "admin")


async def test_a_token_in_the_url_of_a_profile_is_one(
    anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    """As Knitfab's client sends it: `https://knit:TOKEN@host/api`."""
    text, _ = await a_token(store, Role.VIEWER)
    answer = await anybody.get(f"http://knit:{text}@api.test/api/whoami")
    assert answer.json()["name"] == "viewer"


async def wrong_credentials(store: MemoryStore) -> dict[str, dict[str, str]]:
    right, _ = await a_token(store, Role.ADMIN, name="right")
    gone, record = await a_token(store, Role.ADMIN, name="gone")
    await store.tokens.revoke(record.token_id, actor="a test")
    late = datetime.now(UTC) - timedelta(seconds=1)
    expired, _ = await a_token(store, Role.ADMIN, name="late", expires_at=late)
    return {
        "unknown": bearer(new_token()),
        "revoked": bearer(gone),
        "expired": bearer(expired),
        "cut": bearer(right[:-1]),
        "longer": bearer(right + "x"),
        "another case": bearer(right.upper()),
        "of no kind": bearer("x"),
        "empty": {"Authorization": "Bearer "},
        "no scheme": {"Authorization": right},
        "another scheme": {"Authorization": f"Digest {right}"},
        "the digest": bearer(digest_of(right)),
        "the digest of the first": bearer(digest_of(TOKEN)),
        "none": bearer("a.b.c"),
        "alg none": bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."),
        "no base64": {"Authorization": "Basic ???"},
        "no password": basic("", "knit"),
        "as the user": {"Authorization": "Basic " + base64.b64encode(right.encode()).decode()},
        "not ASCII": {"Authorization": "Bearer kn\xeft"},
        "very long": bearer("k" * 60_000),
        "a cookie": {"Cookie": f"Authorization=Bearer {right}; token={right}; knit={right}"},
        "in other headers": {"X-Api-Key": right, "Proxy-Authorization": f"Bearer {right}"},
        "who it is": {"X-Forwarded-User": "admin", "X-Remote-User": "admin", "From": "admin"},
    }


async def test_wrong_credentials_open_nothing(
    anybody: httpx.AsyncClient, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = await wrong_credentials(store)
    for why, headers in wrong.items():
        for path in ("/api/data", "/api/nothing"):
            encoded = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
            answer = await anybody.get(path, headers=encoded)
            assert answer.status_code == 401, (why, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer realm="), why
    assert (await anybody.get("/api/data", params={"access_token": TOKEN})).status_code == 401
    assert (await anybody.get("/api/data", headers=[*BEARER.items()] * 2)).status_code == 401
    for headers in wrong.values():
        for word in headers.get("Authorization", "").split():
            assert len(word) < 20 or word not in caplog.text, "the log holds no secret"


async def test_a_revocation_holds_at_once_here_and_soon_elsewhere(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process believes what it has verified for CACHE_SECONDS."""
    text, record = await a_token(store, Role.VIEWER)
    other, elsewhere = await a_token(store, Role.VIEWER, name="elsewhere")
    for one in (text, other):
        assert (await anybody.get("/api/data", headers=bearer(one))).status_code == 200
    revoked = await anybody.delete(f"/api/tokens/{record.token_id}", headers=BEARER)
    assert revoked.json()["revokedBy"] == "bootstrap"
    assert (await anybody.get("/api/data", headers=bearer(text))).status_code == 401
    await store.tokens.revoke(elsewhere.token_id, actor="another process")
    clock = deps.accounts.verifiers._clock
    monkeypatch.setattr(deps.accounts.verifiers, "_clock", lambda: clock() + CACHE_SECONDS)
    assert CACHE_SECONDS <= 5
    assert (await anybody.get("/api/data", headers=bearer(other))).status_code == 401


async def test_one_that_has_expired_is_not_believed_though_it_was_verified_a_moment_ago(
    anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    text, _ = await a_token(store, Role.VIEWER, expires_at=datetime.now(UTC) + timedelta(1))
    assert (await anybody.get("/api/data", headers=bearer(text))).status_code == 200
    verifiers = anybody._transport.app.state.deps.accounts.verifiers  # type: ignore[attr-defined]
    [(_, principal)] = verifiers._cached.values()
    object.__setattr__(principal, "expires", datetime.now(UTC) - timedelta(seconds=1))
    assert (await anybody.get("/api/data", headers=bearer(text))).status_code == 200, "asked anew"
    assert [one for _, one in verifiers._cached.values()] != [principal]


async def test_a_store_that_is_away_lets_nobody_in_and_nobody_out(
    anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    """It is no refusal either: the client tries again."""
    text, _ = await a_token(store, Role.VIEWER)
    store.memory.broken = StoreUnavailable("the database does not answer")
    answer = await anybody.get("/api/whoami", headers=bearer(text))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    store.memory.broken = None
    assert (await anybody.get("/api/whoami", headers=bearer(text))).status_code == 200
    store.memory.broken = StoreUnavailable("the database does not answer")
    assert (await anybody.get("/api/whoami", headers=bearer(text))).status_code == 200, "verified"


@pytest.mark.parametrize(
    "path",
    [
        "/api/data/../../healthz/../api/data", "/healthz/../api/data", "/healthz/..%2fapi/data",
        "/healthz;/api/data", "/healthz%00", "//healthz", "/./healthz/./../api/data",
        "/HEALTHZ", "/healthz/x", "/api//data", "/api/data;.healthz",
        "/api/data%2f..%2f..%2fhealthz",
        "/.well-known/../api/data", "/.well-known/oauth-protected-resource/../../api/data",
        "/api/data/import/end/../../..", "/api/data/import/end%2f..%2f..%2f..%2fdata",
        "/api/data?x=/healthz", "/api/data#/healthz", "/%61pi/data", "/api/%64ata", "/api/data/",
    ],
)  # fmt: skip
async def test_no_trick_with_a_path_leads_past_authentication(port: int, path: str, deps: Deps):
    """As raw bytes, which no client has cleaned."""
    from tests.api.live_server import talk

    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n".encode()
    answer = await talk(port, request[:-2] + b"Connection: close\r\n\r\n")
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 401), answer


# --- pages of elsewhere ---


@pytest.mark.parametrize(
    "more",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://api.test:81"},
        {"Origin": "http://api.test.evil.example"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
async def test_a_browser_cannot_be_made_to_change_something(
    anybody: httpx.AsyncClient, store: MemoryStore, more: dict[str, str]
) -> None:
    """It adds Basic credentials by itself; no browser adds a Bearer token."""
    run = store.add_run(RunStatus.DONE)
    path = f"/api/runs/{run.summary.run_id}/retry"
    refused = await anybody.put(path, headers={**basic(TOKEN), **more})
    assert refused.status_code == 403
    assert (await store.runs.get(run.summary.run_id)).summary.status is RunStatus.DONE
    assert (await anybody.put(path, headers={**BEARER, **more})).status_code == 200


async def test_a_page_of_this_host_may(anybody: httpx.AsyncClient) -> None:
    own = {"Origin": "http://api.test", "Sec-Fetch-Site": "same-origin"}
    assert (await anybody.get("/api/whoami", headers={**basic(TOKEN), **own})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("http://127.0.0.1", 200), ("https://evil.example", 403),
     ("null", 403), ("http://[", 403)],
)  # fmt: skip
async def test_without_accounts_no_page_of_elsewhere_is_answered(
    deps: Deps, origin: str, status: int
) -> None:
    from dataclasses import replace

    from knit_api.app import create_app
    from tests.api.access import nobody_asks

    app = create_app(replace(deps, accounts=nobody_asks()), loopback_names_only=True)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asks:
        assert (await asks.get("/api/data", headers={"Origin": origin})).status_code == status


# --- too often ---


async def test_guesses_are_limited_per_address(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    """Whoever was valid before goes on, behind the same proxy too."""
    known, _ = await a_token(store, Role.VIEWER, name="known")
    fresh, _ = await a_token(store, Role.VIEWER, name="fresh")
    object.__setattr__(deps, "accounts", enforced(store, failures_per_minute=3))
    assert (await anybody.get("/api/data", headers=bearer(known))).status_code == 200
    statuses = [
        (await anybody.get("/api/data", headers=bearer(new_token()))).status_code for _ in range(5)
    ]
    assert statuses == [401, 401, 401, 429, 429]
    refused = await anybody.get("/api/data", headers=bearer(fresh))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 21
    deps.accounts.verifiers._cached[digest_of(known)] = (0.0, None)  # type: ignore[assignment]
    assert (await anybody.get("/api/data", headers=bearer(known))).status_code == 200


@pytest.fixture
def slow_lookup(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are looked up as in a database: meanwhile other requests go on."""
    find = store.tokens.find

    async def found(digest: str) -> TokenRecord | None:
        await asyncio.sleep(0.01)
        return await find(digest)

    monkeypatch.setattr(store.tokens, "find", found)


@pytest.mark.usefixtures("slow_lookup")
async def test_a_valid_token_is_no_guess_however_many_requests_bring_it_at_once(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    text, _ = await a_token(store, Role.VIEWER)
    object.__setattr__(deps, "accounts", enforced(store, failures_per_minute=5))
    asked = (anybody.get("/api/data", headers=bearer(text)) for _ in range(20))
    answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * 20
    guesses = [await anybody.get("/api/data", headers=bearer(new_token())) for _ in range(6)]
    assert [answer.status_code for answer in guesses] == [401] * 5 + [429], "nothing was lost"


@pytest.mark.usefixtures("slow_lookup")
async def test_one_wrong_token_in_many_requests_at_once_is_many_failures(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    """Each is recorded."""
    text = new_token()
    object.__setattr__(deps, "accounts", enforced(store, failures_per_minute=5))
    answers = await asyncio.gather(
        *(anybody.post("/api/data", headers=bearer(text)) for _ in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 15
    assert len(store.memory.audit) == 5


@pytest.mark.usefixtures("slow_lookup")
async def test_a_client_that_leaves_does_not_end_the_verification_for_others(
    deps: Deps, store: MemoryStore
) -> None:
    text, _ = await a_token(store, Role.VIEWER)
    verifiers = deps.accounts.verifiers
    first, second = (asyncio.ensure_future(verifiers.verify(text)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).name == "viewer"
    assert first.cancelled()
    assert not verifiers.is_verifying(text)


@pytest.mark.usefixtures("slow_lookup")
async def test_a_token_that_is_revoked_while_it_is_verified_is_not_believed_afterwards(
    deps: Deps, store: MemoryStore
) -> None:
    text, record = await a_token(store, Role.VIEWER)
    verifiers = deps.accounts.verifiers
    before = asyncio.ensure_future(verifiers.verify(text))
    await asyncio.sleep(0)
    verifiers.forget(record.digest)
    assert not verifiers.is_verifying(text), "whoever comes now asks anew"
    await before
    assert verifiers.cached(text) is None


async def test_requests_are_limited_per_subject(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    one, _ = await a_token(store, Role.VIEWER, name="one")
    two, _ = await a_token(store, Role.VIEWER, name="two")
    object.__setattr__(deps, "accounts", enforced(store, requests_per_minute=4))
    answers = [await anybody.get("/api/whoami", headers=bearer(one)) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 16
    assert "one sends more than 4" in same(answers[-1])["reason"]
    assert (await anybody.get("/api/whoami", headers=bearer(two))).status_code == 200


# --- tokens ---


async def test_a_token_is_made_shown_once_and_revoked(
    client: httpx.AsyncClient, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    asked = {"name": "ci", "role": "editor", "expiresIn": "720h"}
    answer = await client.post("/tokens", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    text = made.pop("token")
    assert is_token(text)
    assert re.fullmatch(r"knit_[A-Za-z0-9_-]{49}", text)
    assert made["prefix"] == text[:12]
    assert (made["name"], made["role"], made["createdBy"]) == ("ci", "editor", "bootstrap")
    assert (await anybody.get("/api/whoami", headers=bearer(text))).json()["subject"] == "token:ci"
    [listed] = (await client.get("/tokens")).json()
    assert listed.pop("lastUsedAt")
    assert listed == made
    assert text not in str(vars(store.memory))
    taken = await client.post("/tokens", json=asked)
    assert (taken.status_code, same(taken)["see"]) == (409, made["tokenId"])
    for _ in range(2):
        revoked = await client.delete(f"/tokens/{made['tokenId']}")
        assert revoked.json()["revokedBy"] == "bootstrap"
    assert (await client.post("/tokens", json=asked)).status_code == 200
    assert (await client.delete(f"/tokens/{uuid4()}")).status_code == 404
    assert (await client.delete("/tokens/x")).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "a b"}, {"name": "knit"}, {"name": "bootstrap"}, {"name": "x" * 65},
        {"role": "owner"}, {"expiresIn": "0"}, {"expiresIn": "-1h"}, {"expiresIn": "soon"},
        {"expiresIn": "2562047h"}, {"projects": ["x"]}, {"projects": ["knit#id:x"]},
        {"expires": "1h"},
    ],
)  # fmt: skip
async def test_a_token_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, store: MemoryStore, change: dict[str, Any]
) -> None:
    answer = await client.post("/tokens", json={"name": "ci", "role": "editor", **change})
    if change.get("expiresIn") == "2562047h":  # 292 years: odd, and possible
        assert answer.status_code == 200
        return
    assert answer.status_code == 400, answer.text
    assert not store.memory.tokens


async def test_the_metadata_says_how_to_log_in(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    path = "/.well-known/oauth-protected-resource"
    assert (await anybody.get(path)).json() == {
        "resource": "http://api.test",
        "bearer_methods_supported": ["header"],
    }
    public = {
        "oidc_issuer": "https://id.example",
        "oidc_client_id": "knit",
        "oidc_roles": {"a": "viewer"},
    }
    more = {"public_url": "https://knit.example", **public}
    object.__setattr__(deps, "accounts", enforced(store, **more))
    assert (await anybody.get(path, headers={"Host": "evil.example"})).json() == {
        "resource": "https://knit.example",
        "authorization_servers": ["https://id.example"],
        "bearer_methods_supported": ["header"],
        "knit_client_id": "knit",
        "knit_token": "id_token",
    }
    public = {**more, "oidc_audience": "api://knit", "oidc_scopes": "api://knit/.default openid"}
    object.__setattr__(deps, "accounts", enforced(store, **public))
    told = (await anybody.get(path)).json()
    assert told["knit_token"] == "access_token"
    assert told["scopes_supported"] == ["api://knit/.default", "openid"]
    refused = await anybody.get("/api/data", headers={"Host": 'x"\\'})
    assert f'resource_metadata="https://knit.example{path}"' in refused.headers["www-authenticate"]


async def test_a_host_that_is_none_is_not_repeated(anybody: httpx.AsyncClient) -> None:
    refused = await anybody.get("/api/data", headers={"Host": 'x", evil="'})
    assert refused.headers["www-authenticate"] == 'Bearer realm="knit"'


# --- extra APIs ---


@asynccontextmanager
async def an_extra_api(deps: Deps) -> AsyncIterator[Any]:
    from knit_api.extra.endpoints import Endpoints
    from knit_api.extra.in_force import ExtraApis

    async with service(sends(OK)) as behind:
        found = ExtraApis(ExtraApisSettings())
        found.endpoints = Endpoints([ExtraApi("/x", f"http://127.0.0.1:{behind.port}")])
        object.__setattr__(deps, "extra_apis", found)
        yield behind


async def test_extra_apis_need_a_viewer_and_never_see_the_token(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    text, _ = await a_token(store, Role.VIEWER)
    async with an_extra_api(deps) as behind:
        for path in ("/x", "/x/deeper", "/%78", "/x?access_token=1"):
            assert (await anybody.get(path)).status_code == 401
        assert behind.requests == []
        for credentials in (bearer(text), basic(text)):
            answer = await anybody.post("/x", headers={**credentials, "X-Other": "1"}, content=b"")
            assert answer.status_code == 200
            assert behind.last.all("authorization") == []
            assert behind.last.one("x-other") == "1"
    latest, _ = await store.audit.find(AuditQuery(), limit=5)
    assert (latest.record.route, latest.record.method, latest.status) == ("/x", "POST", 200)


async def test_projects_that_are_not_respected_are_refused_in_words(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    projects = frozenset({Tag("project", "x")})
    text, _ = await a_token(store, Role.ADMIN, projects=projects)
    assert (await anybody.get("/api/whoami", headers=bearer(text))).json()["projects"] == [
        "project:x"
    ]
    async with an_extra_api(deps):
        for path in ("/api/tokens", "/api/audit", "/x"):
            answer = await anybody.get(path, headers=bearer(text))
            assert answer.status_code == 403
            assert "bound to projects" in same(answer)["reason"]


# --- the audit log ---


async def entries(store: MemoryStore) -> list[tuple[str, str, str, int | None]]:
    """Who, how, what, and how it ended; oldest first."""
    found = await store.audit.find(AuditQuery(), limit=1000)
    return [
        (one.record.actor, one.record.method, one.record.route, one.status)
        for one in reversed(found)
    ]


async def test_changes_and_reads_of_content_are_recorded_also_refused_ones(
    anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    editor, _ = await a_token(store, Role.EDITOR, name="ed")
    pushed = await anybody.post(
        "/api/data?tag=a:b", content=tar_of(HELLO), headers={**TAR, **bearer(editor)}
    )
    knit_id = pushed.json()["knitId"]
    run_id = pushed.json()["upstream"]["run"]["runId"]
    await anybody.get(f"/api/data/{knit_id}", headers=bearer(editor))
    await anybody.get(f"/api/data/{knit_id}/metadata", headers=bearer(editor))
    await anybody.post(f"/api/data/{knit_id}/purge", headers=bearer(editor))
    await anybody.delete(f"/api/runs/{uuid4()}", headers=bearer(editor))
    await anybody.put(f"/api/data/{knit_id}", headers=bearer(editor), content=b"{")
    await anybody.delete(f"/api/runs/{run_id}")
    await anybody.delete(f"/api/runs/{run_id}", headers=bearer(new_token()))
    await anybody.get(f"/api/data/{knit_id}")
    await anybody.get(f"/api/runs/{run_id}/log", headers=bearer(editor))
    assert await entries(store) == [
        ("ed", "POST", "/api/data", 200),
        ("ed", "GET", "/api/data/{knit_id}", 200),
        ("ed", "POST", "/api/data/{knit_id}/purge", 403),
        ("ed", "DELETE", "/api/runs/{run_id}", 404),
        ("ed", "PUT", "/api/data/{knit_id}", 400),
        ("", "DELETE", f"/api/runs/{run_id}", 401),
        ("", "DELETE", f"/api/runs/{run_id}", 401),
        ("ed", "GET", "/api/runs/{run_id}/log", 404),
    ]
    first = store.memory.audit[0]
    assert first.record.targets == {"knit_id": knit_id}, "what it has made"
    assert (first.record.subject, first.record.address) == ("token:ed", "127.0.0.1")
    assert first.ended_at is not None
    assert first.ended_at >= first.at
    [event, *_] = (await anybody.get(f"/api/runs/{run_id}/events", headers=bearer(editor))).json()
    assert (event["cause"], event["actor"]) == ("upload begins", "ed")


async def test_without_a_record_there_is_no_change(
    client: httpx.AsyncClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.add_run(RunStatus.RUNNING).summary.run_id

    async def full(*_: object) -> int:
        raise StoreUnavailable("the audit log takes nothing")

    monkeypatch.setattr(store.audit, "begin", full)
    assert (await client.put(f"/runs/{run_id}/abort")).status_code == 503
    assert (await store.runs.get(run_id)).summary.status is RunStatus.RUNNING
    assert (await client.get(f"/runs/{run_id}")).status_code == 200


async def test_a_change_whose_outcome_cannot_be_recorded_is_answered_all_the_same(
    client: httpx.AsyncClient,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its record stays without an outcome: nobody knows."""
    run_id = store.add_run(RunStatus.RUNNING).summary.run_id

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store.audit, "end", away)
    assert (await client.put(f"/runs/{run_id}/abort")).status_code == 200
    assert [status for *_, status in await entries(store)] == [None]
    assert "is not recorded" in caplog.text


async def test_the_record_is_there_before_the_change(
    client: httpx.AsyncClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.add_run(RunStatus.RUNNING).summary.run_id
    seen = []

    async def look(*_: object, **__: object) -> None:
        seen.extend(await entries(store))
        raise RuntimeError("a bug")

    monkeypatch.setattr(store.runs, "stop", look)
    assert (await client.put(f"/runs/{run_id}/abort")).status_code == 500
    assert [status for *_, status in seen] == [None]
    assert [status for *_, status in await entries(store)] == [500]


async def test_the_log_is_read_page_by_page(client: httpx.AsyncClient, store: MemoryStore) -> None:
    for _ in range(3):
        await client.delete(f"/runs/{uuid4()}")
    page = await client.get("/audit", params={"limit": 2, "actor": "bootstrap"})
    assert [one["status"] for one in page.json()] == [404, 404]
    rest = await client.get("/audit", params={"limit": 2, "cursor": page.headers["x-next-cursor"]})
    assert len(rest.json()) == 1
    assert "x-next-cursor" not in rest.headers
    entry = rest.json()[0]
    assert (entry["actor"], entry["method"]) == ("bootstrap", "DELETE")
    assert await found(client, since=entry["at"]) == 3
    assert await found(client, until=entry["at"]) == 0
    assert await found(client, actor="nobody") == 0
    for wrong in ({"cursor": "x"}, {"since": "x"}, {"until": "x"}, {"limit": "0"}):
        assert (await client.get("/audit", params=wrong)).status_code == 400


async def found(client: httpx.AsyncClient, **query: str) -> int:
    return len((await client.get("/audit", params=query)).json())


async def test_neither_log_nor_audit_holds_a_secret(
    client: httpx.AsyncClient,
    anybody: httpx.AsyncClient,
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    text = (await client.post("/tokens", json={"name": "ci", "role": "admin"})).json()["token"]
    guess = f"{text[:-7]}{secrets.token_hex(4)}"
    for token in (text, guess):
        await anybody.post("/api/tokens", json={"name": token}, headers=bearer(token))
        await anybody.delete(f"/api/tokens/{uuid4()}", headers=basic(token))
        await anybody.get("/api/data", headers={"Cookie": token, **bearer(token)})
    said = caplog.text + str([vars(one) for one in caplog.records]) + str(store.memory.audit)
    for secret in (text, guess, TOKEN):
        assert secret not in said
        assert secret[20:] not in said


# --- where requests come from ---


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ([], "203.0.113.7", "127.0.0.1"),
        (["127.0.0.0/8"], "203.0.113.7", "203.0.113.7"),
        (["127.0.0.0/8"], "10.9.9.9, 203.0.113.7", "203.0.113.7"),
        (["127.0.0.0/8", "203.0.113.0/24"], "10.9.9.9, 203.0.113.7", "10.9.9.9"),
        (["127.0.0.0/8"], "203.0.113.7, nonsense", "127.0.0.1"),
        (["127.0.0.0/8"], "203.0.113.7:51234", "203.0.113.7"),
        (["127.0.0.0/8"], "[2001:db8::1]:443", "2001:db8::1"),
        (["127.0.0.0/8"], "[2001:db8::1]", "2001:db8::1"),
        (["127.0.0.0/8"], "2001:db8::1", "2001:db8::1"),
        (["127.0.0.0/8", "203.0.113.0/24"], "10.9.9.9:1, 203.0.113.7:51234", "10.9.9.9"),
        (["127.0.0.0/8"], "203.0.113.7:port", "127.0.0.1"),
        (["127.0.0.0/8"], "203.0.113:7", "127.0.0.1"),
        (["127.0.0.0/8"], "", "127.0.0.1"),
        (["10.0.0.0/8"], "203.0.113.7", "127.0.0.1"),
    ],
)
async def test_only_trusted_proxies_say_where_a_request_comes_from(
    deps: Deps,
    anybody: httpx.AsyncClient,
    store: MemoryStore,
    trusted: list[str],
    forwarded: str,
    address: str,
) -> None:
    object.__setattr__(deps, "accounts", enforced(store, trusted_proxies=trusted))
    headers = {**BEARER, "X-Forwarded-For": forwarded}
    await anybody.delete(f"/api/runs/{uuid4()}", headers=headers)
    assert store.memory.audit[0].record.address == address


def test_accounts_are_on_unless_they_are_switched_off(store: MemoryStore) -> None:
    assert enforced(store).required
    assert not Accounts.off(lambda: None).required  # type: ignore[arg-type,return-value]


# --- imports ---


async def test_an_import_is_ended_by_its_own_token_alone(
    anybody: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    """It is the token that counts; the actor is who has begun the import."""
    text, _ = await a_token(store, Role.OPERATOR, name="importer")
    begun = await anybody.post("/api/data/import/begin", headers=bearer(text))
    one = import_of(jws.read(begun.text).claims)
    await transfers.backend.create_volume(Volume(one.volume, one.knit_id))
    jwt = {"Content-Type": "application/jwt"}
    signed, _, _ = begun.text.rpartition(".")
    forged = await anybody.post("/api/data/import/end", content=f"{signed}.AAAA", headers=jwt)
    assert forged.status_code == 401
    assert forged.headers["www-authenticate"].startswith("Bearer realm=")
    assert (await store.runs.get(one.run_id)).summary.status is RunStatus.RUNNING
    wrong = await anybody.post(
        "/api/data/import/end", content=begun.text, headers={**jwt, **bearer(new_token())}
    )
    assert wrong.status_code == 401, "credentials that are sent are looked at"
    ended = await anybody.post("/api/data/import/end", content=begun.text, headers=jwt)
    assert ended.status_code == 200, ended.text
    events = await store.runs.events(one.run_id)
    assert [event.actor for event in events][:2] == ["importer", "importer"]
    latest = store.memory.audit[-1]
    assert (latest.record.subject, latest.status) == ("", 200)
    assert latest.record.targets["actor"] == "importer"
    assert begun.text not in str(store.memory.audit)


async def test_guesses_of_an_imports_token_are_limited_too(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    object.__setattr__(deps, "accounts", enforced(store, failures_per_minute=2))
    statuses = [
        (
            await anybody.post(
                "/api/data/import/end", content="a.b.c", headers={"Content-Type": "application/jwt"}
            )
        ).status_code
        for _ in range(3)
    ]
    assert statuses == [401, 401, 429]


async def test_guesses_at_once_are_limited_like_others(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    object.__setattr__(deps, "accounts", enforced(store, failures_per_minute=5))
    answers = await asyncio.gather(
        *(anybody.get("/api/data", headers=bearer(new_token())) for _ in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 15


async def test_a_flood_of_strangers_does_not_fill_the_audit_log(
    deps: Deps, anybody: httpx.AsyncClient, store: MemoryStore
) -> None:
    object.__setattr__(deps, "accounts", enforced(store, failures_per_minute=5))
    kinds: list[dict[str, str]] = [{}, bearer("x"), {"Authorization": "Digest x"}, basic("")]
    for turn in range(20):
        await anybody.post("/api/data", headers=kinds[turn % len(kinds)])
    assert len(store.memory.audit) == 5


# --- the parts ---


def test_a_rate_is_an_average_with_as_many_at_once() -> None:
    now = 0.0
    rates = Rates(60, clock=lambda: now)
    assert [rates.take("a") for _ in range(60)] == [0.0] * 60
    assert rates.take("a") == pytest.approx(1.0)
    assert rates.take("b") == 0.0
    now = 2.0
    assert [bool(rates.take("a")) for _ in range(3)] == [False, False, True]
    rates.give_back("a")
    assert rates.take("a") == 0.0
    now = 1e6
    assert [bool(rates.take("a")) for _ in range(61)] == [False] * 60 + [True]


def test_a_token_has_its_form_and_a_checksum() -> None:
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    for text in tokens:
        assert len(text) == 54
        assert is_token(text)
        at = secrets.randbelow(54)
        other = "a" if text[at] != "a" else "b"
        assert not is_token(text[:at] + other + text[at + 1 :])
    for wrong in ("", "knit_", text[:-1], text + "0", f" {text}", f"{text}\n", text.upper()):
        assert not is_token(wrong)


def test_the_metadata_of_openapi_names_the_roles(app: FastAPI) -> None:
    document = app.openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "basic"}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert document["paths"]["/api/tokens"]["post"]["x-role"] == "admin"
