"""Text that no database takes, NUL and half characters, wherever a client can write some."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from knit_api.accounts.access import Accounts
from knit_api.accounts.oidc import OidcVerifier
from knit_api.deps import Deps, Lazy
from knit_workflows.domain.accounts import jws
from knit_workflows.domain.accounts.principals import AuditQuery
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.settings import AccountSettings
from knit_workflows.store import PostgresStore
from tests.api.access import BEARER, enforced
from tests.api.issuers import AUDIENCE, ISSUER, Issuer, claims, forged, signed
from tests.memory_store import MemoryStore
from tests.postgres import Databases
from tests.store.build import upload

pytestmark = pytest.mark.patient

JSON: Final = {"Content-Type": "application/json"}
BAD: Final = ("\0", "x\0y", "\ud800", "x\udfffy", "\x01\x1b[31m")
PLAN: Final[dict[str, Any]] = {
    "image": "repo/x:1",
    "inputs": [{"path": "/in", "tags": ["a:b"]}],
    "outputs": [{"path": "/out", "tags": ["c:d"]}],
    "log": {"tags": ["e:f"]},
}
USERS: Final = {
    "oidc_issuer": ISSUER,
    "oidc_client_id": AUDIENCE,
    "oidc_roles": {"ml-team": "operator"},
}


@pytest.fixture(scope="module", params=["memory", "postgres"])
async def any_store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        store: Any = MemoryStore()
        if request.param == "postgres":
            databases: Databases = request.getfixturevalue("databases")
            store, _ = await stack.enter_async_context(databases.store())
        yield store


async def away() -> None:
    raise EngineUnavailable


@pytest.fixture
async def client(one_app: FastAPI, any_store: PostgresStore) -> AsyncIterator[httpx.AsyncClient]:
    verifier = OidcVerifier(AccountSettings.model_validate(USERS), Issuer().client())
    own = enforced(any_store, **USERS)
    accounts = Accounts(own.settings, Lazy.of(any_store).get, [verifier])
    one_app.state.deps = deps = Deps(Lazy.of(any_store), Lazy(away, EngineUnavailable), accounts)
    transport = httpx.ASGITransport(one_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        yield client
    await deps.aclose()


def changed(document: Any, bad: str) -> list[Any]:
    """The document with `bad` in each place where it has a text."""
    if isinstance(document, str):
        return [bad, f"{document}{bad}", f"{bad}{document}"]
    found: list[Any] = []
    if isinstance(document, dict):
        for key, value in document.items():
            found += [{**document, key: one} for one in changed(value, bad)]
            found.append({**document, f"{key}{bad}": value})
    if isinstance(document, list):
        for place, value in enumerate(document):
            found += [
                [*document[:place], one, *document[place + 1 :]] for one in changed(value, bad)
            ]
    return found


MORE_OF_A_PLAN: Final = {
    **PLAN,
    "entrypoint": ["a"], "args": ["b"], "annotations": ["k=v"], "service_account": "me",
    "on_node": {"must": ["k=v"]}, "resources": {"cpu": "1"},
}  # fmt: skip
BODIES: Final[list[tuple[str, str, Any]]] = [
    ("POST", "/api/plans", MORE_OF_A_PLAN),
    ("PUT", "/api/data/{data}", {"add": ["a:b", {"key": "c", "value": "d"}], "remove": ["e:f"],
                                 "remove_key": ["g"]}),
    ("PUT", "/api/plans/{plan}/annotations", {"add": ["k=v"], "remove": ["a=b"],
                                              "remove_key": ["k"]}),
    ("PUT", "/api/plans/{plan}/resources", {"set": {"cpu": "1"}, "unset": ["memory"]}),
    ("PUT", "/api/plans/{plan}/serviceaccount", {"service_account": "me"}),
    ("PUT", "/api/plans/{plan}/options", {"pod": {"priority_class": "x", "labels": {"a": "b"}}}),
    ("POST", "/api/adoptions", {"volumes": [{"volume": "/a", "tags": ["a:b"]}]}),
    ("POST", "/api/tokens", {"name": "n", "role": "viewer", "projects": ["a:b"]}),
    ("POST", "/api/hooks/deliveries/{data}/skip", {"reason": "x", "by": "y"}),
    ("POST", "/api/hooks/test", {"url": "http://x/"}),
    ("POST", "/api/trials", PLAN),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), BODIES, ids=[one[1] for one in BODIES])
async def test_in_a_body(client, any_store, method, path, body):
    ids = {"data": await upload(any_store)}
    made = await client.post("/api/plans", json={**PLAN, "image": f"r:{uuid4()}"}, headers=BEARER)
    ids["plan"] = made.json()["planId"]
    for bad in BAD:
        for one in changed(body, bad):
            content = json.dumps(one)  # in ASCII, so that half a character can be sent at all
            answer = await client.request(
                method, path.format(**ids), content=content, headers={**BEARER, **JSON}
            )
            assert answer.status_code in (200, 400, 404, 409, 503), (one, answer.text)
            assert "unexpected error" not in answer.text


QUERIES: Final = (
    "/api/data?tag=a:{}", "/api/data?tag={}:a", "/api/data?since={}", "/api/data?cursor={}",
    "/api/plans?image={}", "/api/plans?image=x:{}", "/api/plans?image=x@{}",
    "/api/plans?in_tag={}:",
    "/api/plans?out_tag=a:{}", "/api/plans?active={}", "/api/runs?plan={}", "/api/runs?status={}",
    "/api/runs?knitIdInput={}", "/api/audit?actor={}", "/api/completions?of=tags&prefix={}",
    "/api/completions?of={}", "/api/hooks/deliveries?run={}", "/api/data/{}", "/api/runs/{}/log",
    "/api/plans/{}", "/api/tokens/{}",
)  # fmt: skip


@pytest.mark.parametrize("target", QUERIES)
async def test_in_an_address(client, target):
    for bad in ("%00", "x%00", "%ED%A0%80", "%FF", "%01"):
        for method in ("GET", "PUT", "DELETE"):
            answer = await client.request(method, target.format(bad), headers=BEARER)
            assert answer.status_code in (200, 400, 404, 405), answer.text
            refused = await client.request(method, target.format(bad))
            assert refused.status_code in (401, 404, 405), refused.text


@pytest.mark.parametrize("bad", BAD)
async def test_in_the_head_of_an_import_token(client, bad):
    for kid in (bad, f"k{bad}"):
        token = jws.sign({"sub": "x"}, kid=kid, secret=b"x")
        answer = await client.post(
            "/api/data/import/end", content=token, headers={"Content-Type": "application/jwt"}
        )
        assert answer.status_code == 401


HEAD: Final = {"alg": "RS256", "kid": "one", "typ": "JWT"}


@pytest.mark.parametrize("bad", BAD)
async def test_in_a_token_of_a_provider(client, any_store, bad):
    """Signed or not; whatever a user may call themselves there, histories can hold it."""
    whole = {**claims(), "_claim_names": {"x": "y"}, "azp": "x", "jti": "x", "scope": "x"}
    heads = [*changed({**HEAD, "crit": ["x"], "b64": "x", "cty": "x", "x5t": "x"}, bad),
             *changed(HEAD, bad)]  # fmt: skip
    tokens = [forged(head, whole) for head in heads]
    tokens += [signed(whole, head) for head in heads]
    tokens += [make(HEAD, one) for one in changed(whole, bad) for make in (forged,)]
    tokens += [signed(one, HEAD) for one in changed(whole, bad)]
    seen = set()
    for token in tokens:
        headers = {"Authorization": f"Bearer {token}"}
        for method, path in (("GET", "/api/whoami"), ("POST", "/api/data/import/begin")):
            answer = await client.request(method, path, headers=headers)
            seen.add(answer.status_code)
            assert answer.status_code in (200, 401, 403), answer.text
    assert {200, 401, 403} <= seen
    records = [one.record async for one in entries(any_store)]
    assert any(one.subject.startswith("oidc:") for one in records)
    assert all(text.isprintable() for one in records for text in (one.subject, one.actor))


async def entries(store: Any) -> AsyncIterator[Any]:
    for one in await store.audit.find(AuditQuery(), limit=1_000):
        yield one
