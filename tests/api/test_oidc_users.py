"""Users of an identity provider at the API: 401, 403 and 503, and who they are in the records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from knit_api.accounts.access import Accounts
from knit_api.accounts.oidc import OidcVerifier
from knit_api.deps import Deps, Lazy
from knit_workflows.domain.accounts.principals import AuditQuery
from knit_workflows.settings import AccountSettings
from tests.api.issuers import AUDIENCE, ISSUER, Issuer, claims, forged, signed, token
from tests.memory_store import MemoryStore

SETTINGS = {
    "oidc_issuer": ISSUER,
    "oidc_client_id": AUDIENCE,
    "oidc_roles": {"ml-team": "editor", "guests": "viewer"},
    "failures_per_minute": 5,
}


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def more() -> dict[str, object]:
    """Settings besides; a test that needs one is parametrized with it."""
    return {}


@pytest.fixture
async def client(
    app: FastAPI, deps: Deps, store: MemoryStore, issuer: Issuer, more: dict[str, object]
) -> AsyncIterator[httpx.AsyncClient]:
    settings = AccountSettings.model_validate({**SETTINGS, **more})
    verifier = OidcVerifier(settings, issuer.client(), clock=lambda: issuer.now)
    accounts = Accounts(settings, Lazy.of(store).get, [verifier])
    object.__setattr__(deps, "accounts", accounts)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as one:
        yield one
    await accounts.aclose()


async def get(client: httpx.AsyncClient, text: str, path: str = "/api/whoami") -> httpx.Response:
    return await client.get(path, headers={"Authorization": f"Bearer {text}"})


async def test_a_user_is_known(client: httpx.AsyncClient, store: MemoryStore) -> None:
    who = (await get(client, token())).json()
    assert (who["subject"], who["name"], who["role"]) == ("oidc:7f3c", "ada", "editor")
    refused = await get(client, token(groups=["guests"]), "/api/tokens")
    assert refused.status_code == 403
    assert "needs the role admin" in refused.json()["message"]["reason"]
    headers = {"Authorization": f"Bearer {token()}"}
    await client.put("/api/plans/none/active", headers=headers)
    [entry] = await store.audit.find(AuditQuery(actor="oidc:7f3c"), limit=9)
    assert (entry.record.actor, entry.record.subject, entry.status) == ("ada", "oidc:7f3c", 404)


@pytest.mark.parametrize("name", ["knit", "user", "bootstrap"])
async def test_nobody_passes_for_knit_itself(
    client: httpx.AsyncClient, store: MemoryStore, name: str
) -> None:
    headers = {"Authorization": f"Bearer {token(preferred_username=name)}"}
    await client.put("/api/plans/none/active", headers=headers)
    [entry] = await store.audit.find(AuditQuery(), limit=9)
    assert entry.record.actor == "oidc:7f3c"


async def test_a_token_that_is_not_valid_is_401_and_counts(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        refused = await get(client, token(exp=1))
        assert refused.status_code == 401
        assert refused.json()["message"]["reason"] == "the token has expired"
        assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert (await get(client, token(exp=1))).status_code == 429


async def test_a_user_without_a_role_is_403_and_no_guesser(client: httpx.AsyncClient) -> None:
    for _ in range(9):
        refused = await get(client, token(groups=["other"]))
        assert refused.status_code == 403
        message = refused.json()["message"]
        assert "ada is in 'other'" in message["reason"]
        assert "ask an admin of this knit for a role" in message["advice"]


@pytest.mark.parametrize("more", [{"requests_per_minute": 5}])
async def test_users_without_a_role_are_recorded_by_name_and_have_a_limit(
    client: httpx.AsyncClient, store: MemoryStore
) -> None:
    """Whether their requests come one by one or at once."""
    headers = {"Authorization": f"Bearer {token(groups=['other'])}"}
    asked = [client.post("/api/data", headers=headers) for _ in range(20)]
    answers = [await asked.pop(), await asked.pop(), *await asyncio.gather(*asked)]
    assert sorted(answer.status_code for answer in answers) == [403] * 5 + [429] * 15
    entries = await store.audit.find(AuditQuery(), limit=99)
    assert [(one.record.subject, one.record.actor, one.status) for one in entries] == [
        ("oidc:7f3c", "ada", 403)
    ] * 5
    other = await client.get("/api/whoami", headers={"Authorization": f"Bearer {token(sub='x')}"})
    assert other.status_code == 200, "it is the limit of that subject"


@pytest.mark.parametrize("end", [253402300799, "253402300799", 10**15])
async def test_a_token_that_never_ends_is_one(client: httpx.AsyncClient, end: object) -> None:
    """Also where its end is a text of digits, as a few providers write it."""
    who = await get(client, signed(claims(exp=end)))
    assert who.status_code == 200
    assert who.json()["expires"].startswith("9999-12-31T23:5")


async def test_a_provider_that_is_away_is_503_and_no_fault_of_the_caller(
    client: httpx.AsyncClient, issuer: Issuer
) -> None:
    issuer.trouble = lambda _: httpx.Response(502)
    for _ in range(9):
        away = await get(client, token())
        assert away.status_code == 503
        assert away.headers["Retry-After"]
        assert f"the identity provider {ISSUER} cannot be asked" in away.json()["message"]["reason"]
        assert "WWW-Authenticate" not in away.headers


async def test_no_token_is_in_the_log_or_the_audit_log(
    client: httpx.AsyncClient, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [token(), token(exp=1), token(groups=[]), forged({"alg": "none"}, claims(), b"")]
    for text in sent:
        await client.put("/api/plans/x/active", headers={"Authorization": f"Bearer {text}"})
    entries = await store.audit.find(AuditQuery(), limit=9)
    for text in sent:
        assert text not in caplog.text + str(entries)
