"""Access control of one API process: who a request is from, and whether it may go on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from starlette.types import Scope

from knit_api.accounts.credentials import (
    SAFE,
    Unauthenticated,
    address_of,
    network_of,
    origin_of,
    scheme_of,
    token_of,
)
from knit_api.accounts.matrix import METADATA_PATH
from knit_api.accounts.rates import Rates
from knit_api.accounts.verifiers import (
    BootstrapVerifier,
    KnitTokenVerifier,
    NoRole,
    ProviderVerifier,
    TokenRefused,
    Verifiers,
)
from knit_api.errors import HttpProblem
from knit_workflows.domain.accounts.principals import Principal, Role
from knit_workflows.domain.ports import ApiStore, AuditStore, TokenStore
from knit_workflows.domain.runs.run import USER
from knit_workflows.settings import AccountSettings

log = logging.getLogger(__name__)

ANYBODY: Final = Principal(USER, USER, Role.ADMIN)
"""Who calls where accounts are off."""
_ROLE_ADVICE: Final = "ask an admin of this knit for a role, then log in again: knit login"
StoreOf = Callable[[], Awaitable[ApiStore]]

_ADVICE: Final = "send a valid token as Authorization: Bearer TOKEN; `knit login` gets one"


class Caller(Protocol):
    """Somebody who has shown who they are, whether they have a role or not; see `Principal`."""

    @property
    def subject(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102


class RefusedCaller(HttpProblem):
    """The refusal of a caller who has no role here."""

    def __init__(self, caller: Caller, reason: str) -> None:
        super().__init__(403, reason, _ROLE_ADVICE)
        self.caller = caller


class Accounts:
    """Who may call, as the settings say; without `required` everybody may do everything."""

    def __init__(
        self, settings: AccountSettings, store: StoreOf, verifiers: Sequence[ProviderVerifier] = ()
    ) -> None:
        """`verifiers` know the tokens that are not of knit's own, in this order."""
        self.settings = settings
        self._store = store
        self._providers = verifiers
        sha256 = settings.bootstrap_token_sha256
        self.verifiers = Verifiers(
            [
                KnitTokenVerifier(self.tokens),
                *([BootstrapVerifier(sha256.get_secret_value())] if sha256 else []),
                *verifiers,
            ]
        )
        self._failures = Rates(settings.failures_per_minute)
        self._requests = Rates(settings.requests_per_minute)

    @classmethod
    def off(cls, store: StoreOf) -> Accounts:
        """Gives access for everybody, for one machine and its one user."""
        return cls(AccountSettings(required=False), store)

    async def aclose(self) -> None:
        """Ends the connections to others who know tokens."""
        for provider in self._providers:
            await provider.aclose()

    @property
    def required(self) -> bool:
        """Whether callers must authenticate."""
        return self.settings.required

    async def tokens(self) -> TokenStore:
        """Gives the tokens; raises StoreUnavailable."""
        return (await self._store()).tokens

    async def audit(self) -> AuditStore:
        """Gives the audit log; raises StoreUnavailable."""
        return (await self._store()).audit

    def address(self, scope: Scope) -> str:
        """Gives the address that a request comes from."""
        return address_of(scope, self.settings.trusted_proxies)

    def origin(self, scope: Scope) -> str:
        """Gives scheme and host by which clients reach this API; empty if that is not known."""
        return origin_of(scope, self.settings.public_url, self.settings.trusted_proxies)

    def scheme(self, scope: Scope) -> str:
        """Gives the scheme by which clients reach this API; that of the connection counts last."""
        return scheme_of(scope, self.settings.public_url, self.settings.trusted_proxies)

    async def authenticate(self, scope: Scope) -> Principal:
        """Gives who sends a request.

        Raises:
            RefusedCaller: a user without a role (403).
            HttpProblem: nobody who may (401), a page of elsewhere (403), or too often (429).
            Unavailable: it cannot be told at the moment.
        """
        try:
            token = self._token(scope)
            principal = self.verifiers.cached(token) or await self._verified(scope, token)
        except Unauthenticated as error:
            raise self.challenge(scope, error.reason, error.error) from None
        self._require_rate(principal)
        return principal

    def _token(self, scope: Scope) -> str:
        try:
            return token_of(scope)
        except (Unauthenticated, HttpProblem):
            if scope["method"] not in SAFE:  # it will be recorded, which must have a limit too
                self.count_failure(scope)
            raise

    async def _verified(self, scope: Scope, token: str) -> Principal:
        try:
            return await self._counted(scope, token)
        except NoRole as refused:
            self._require_rate(refused)  # each refusal may be recorded, which must have a limit too
            raise RefusedCaller(refused, refused.reason) from None
        except TokenRefused as refused:
            log.warning(
                "a token is refused: %s",
                refused.reason,
                extra={"action": "token_refused", "address": self.address(scope)},
            )
            raise Unauthenticated(refused.reason, "invalid_token") from None

    async def _counted(self, scope: Scope, token: str) -> Principal:
        """Verifies a token; the attempt counts as failed until the token is not refused."""
        if self.verifiers.is_verifying(token):
            return await self._joined(scope, token)
        # Whoever has shown a valid token before is not kept out by a guesser behind the same proxy.
        is_known = self.verifiers.has_known(token)
        if not is_known:
            self.count_failure(scope)
        has_failed = False
        try:
            return await self.verifiers.verify(token)
        except TokenRefused as refused:
            has_failed = not isinstance(refused, NoRole)
            raise
        finally:
            if not is_known and not has_failed:
                self.forgive(scope)

    async def _joined(self, scope: Scope, token: str) -> Principal:
        """Waits for the verification of another request, which is counted already.

        A valid token is no guess, however many requests send it at once. Once it is refused, each
        of them has failed: their records must have a limit too.
        """
        try:
            return await self.verifiers.verify(token)
        except NoRole:
            raise
        except TokenRefused:
            self.count_failure(scope)
            raise

    def count_failure(self, scope: Scope) -> None:
        """Counts an attempt of an address as failed, until it is forgiven.

        Raises:
            HttpProblem: it has failed too often (429).
        """
        wait = self._failures.take(network_of(self.address(scope)))
        if wait:
            raise _too_often("too many attempts without a valid token from this address", wait)

    def forgive(self, scope: Scope) -> None:
        """Says that the last attempt has not failed."""
        self._failures.give_back(network_of(self.address(scope)))

    def challenge(self, scope: Scope, reason: str, error: str = "") -> HttpProblem:
        """Gives the refusal that says how to authenticate (RFC 6750, RFC 9728)."""
        return HttpProblem(401, reason, _ADVICE, {"WWW-Authenticate": self._how(scope, error)})

    def _how(self, scope: Scope, error: str) -> str:
        parts = ['realm="knit"']
        if error:
            parts.append(f'error="{error}"')
        if origin := self.origin(scope):
            parts.append(f'resource_metadata="{origin}{METADATA_PATH}"')
        return f"Bearer {', '.join(parts)}"

    def _require_rate(self, caller: Caller) -> None:
        wait = self._requests.take(caller.subject)
        if wait:
            raise _too_often(
                f"{caller.name} sends more than {self.settings.requests_per_minute:,} requests "
                "per minute",
                wait,
            )


def _too_often(reason: str, wait: float) -> HttpProblem:
    seconds = max(1, round(wait + 0.5))
    advice = f"wait {seconds} s, then send it again"
    return HttpProblem(429, reason, advice, {"Retry-After": str(seconds)})
