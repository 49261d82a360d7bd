"""Finds out who sends a request before anything else looks at it, and completes its record.

Also by which scheme the client reaches the API, which proxies say that are known to accounts.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knit_api.accounts.access import ANYBODY, Accounts
from knit_api.accounts.credentials import AUTHORIZATION
from knit_api.accounts.guard import PRINCIPAL, record_outcome, record_refusal
from knit_api.accounts.matrix import OPEN_PATHS, OWN_TOKEN_PATHS
from knit_api.error_responses import response_for
from knit_api.errors import ClientDisconnected, HttpProblem
from knit_api.server.streams import finish_despite_cancel
from knit_api.server.trailers import ResponseAborted
from knit_workflows.domain.accounts.principals import Principal

_CLIENT_LEFT: Final = 499
"""The status in the record of a request whose client left before there was one (nginx's)."""


class AccountsMiddleware:
    """Refuses requests of callers who are not known; tells the others' principal to the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves or refuses one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accounts: Accounts = scope["app"].state.deps.accounts
        state = dict(scope.get("state") or {})
        scope = {**scope, "state": state, "scheme": accounts.scheme(scope)}
        if not accounts.required:
            state[PRINCIPAL] = ANYBODY
            await self._app(scope, receive, send)
            return
        try:
            state[PRINCIPAL] = await _caller(accounts, scope)
        except HttpProblem as refusal:
            if refusal.status in (401, 403):
                await record_refusal(accounts, scope, refusal)
            raise
        await self._serve(accounts, scope, receive, send)

    async def _serve(self, accounts: Accounts, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await record_outcome(accounts, scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except BaseException as error:
            await finish_despite_cancel(record_outcome(accounts, scope, _status_of(error)))
            if isinstance(error, HttpProblem) and error.status == 401 and error.headers is None:
                # That of a route with a token of its own (RFC 9110, §15.5.2).
                error.headers = accounts.challenge(scope, "", "invalid_token").headers
            raise
        # What has had no response of its own has become another protocol.
        await record_outcome(accounts, scope, 101)


async def _caller(accounts: Accounts, scope: Scope) -> Principal | None:
    """Gives who sends a request; None where nobody need say so. Raises HttpProblem."""
    path = scope["path"].rstrip("/")
    if path in OPEN_PATHS:
        return None
    has_credentials = any(name == AUTHORIZATION for name, _ in scope["headers"])
    if path in OWN_TOKEN_PATHS and not has_credentials:
        return None
    return await accounts.authenticate(scope)


def _status_of(error: BaseException) -> int:
    if isinstance(error, asyncio.CancelledError | ClientDisconnected | ResponseAborted):
        return _CLIENT_LEFT
    return response_for(error).status_code if isinstance(error, Exception) else 500
