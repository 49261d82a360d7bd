"""Access to the app under test: with accounts, and a token that may do everything; or without."""

from __future__ import annotations

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from knit_api.accounts.access import Accounts
from knit_api.deps import Lazy
from knit_workflows.domain.accounts.tokens import digest_of, new_token
from knit_workflows.domain.ports import ApiStore
from knit_workflows.settings import AccountSettings
from tests.memory_store import MemoryStore

TOKEN = new_token()
"""Of an admin whom histories call `bootstrap`."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def enforced(store: ApiStore | MemoryStore | Lazy[ApiStore], **settings: object) -> Accounts:
    """Accounts as a cluster has them; no test is stopped by a rate unless it sets one."""
    chosen = {
        "bootstrap_token_sha256": SecretStr(digest_of(TOKEN)),
        "requests_per_minute": 1_000_000,
        "failures_per_minute": 1_000_000,
        **settings,
    }
    return Accounts(AccountSettings.model_validate(chosen), _lazy(store).get)


def nobody_asks() -> Accounts:
    """No accounts, as under `knit dev`."""

    async def never() -> ApiStore:
        raise AssertionError("without accounts nothing is looked up or recorded")

    return Accounts.off(never)


def with_token(app: ASGIApp) -> ASGIApp:
    """The app for clients that send no credentials: they get TOKEN on the way."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not any(n == b"authorization" for n, _ in scope["headers"]):
            added = (b"authorization", BEARER["Authorization"].encode())
            scope = {**scope, "headers": [*scope["headers"], added]}
        await app(scope, receive, send)

    return called


def _lazy(store: ApiStore | MemoryStore | Lazy[ApiStore]) -> Lazy[ApiStore]:
    return store if isinstance(store, Lazy) else Lazy.of(store)
