"""From the text of a token to the principal that it authenticates.

Verifiers are asked in order; each says whether a token is its own.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

from knit_workflows.domain.accounts.principals import Principal, Role, TokenRecord
from knit_workflows.domain.accounts.tokens import digest_of, is_token
from knit_workflows.domain.errors import Unavailable
from knit_workflows.domain.ports import TokenStore

CACHE_SECONDS: Final = 5.0
"""How long a verified token is believed without another look: so soon a revocation holds."""
_MAX_CACHED: Final = 10_000

BOOTSTRAP: Final = Principal("bootstrap", "bootstrap", Role.ADMIN)


class TokenRefused(Exception):
    """A token is known, or of a known kind, and is not valid; the message says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoRole(TokenRefused):
    """A token is valid, and whom it authenticates has no role here; the message says why.

    `subject` and `name` are what a principal has.
    """

    def __init__(self, reason: str, subject: str, name: str) -> None:
        super().__init__(reason)
        self.subject = subject
        self.name = name


class TokenVerifier(Protocol):
    """Knows one kind of token."""

    async def verify(self, token: str) -> Principal | None:
        """Gives whom a token authenticates; None: it is not of this kind.

        Raises:
            TokenRefused: it is of this kind, and not valid: expired, revoked, for others, ….
            NoRole: it is valid, and its subject has no role here.
            Unavailable: it cannot be told at the moment.
        """


class ProviderVerifier(TokenVerifier, Protocol):
    """Knows the tokens of somebody else, whom it asks over the network."""

    async def aclose(self) -> None:
        """Ends what is under way."""


class KnitTokenVerifier:
    """Knows the tokens that `knit admin token create` makes.

    A token that is not stored is taken for one of another kind: the bootstrap token has the same
    form.
    """

    def __init__(self, tokens: Callable[[], Awaitable[TokenStore]]) -> None:
        self._tokens = tokens

    async def verify(self, token: str) -> Principal | None:
        """See `TokenVerifier`."""
        if not is_token(token):
            return None
        digest = digest_of(token)
        tokens = await self._tokens()
        found = await tokens.find(digest)
        # The index has found it by a digest, of which a guesser cannot choose the beginning; the
        # whole is compared in constant time all the same.
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        _require_valid(found)
        with suppress(Unavailable):  # a full disk must not lock out who would make room
            await tokens.used(found.token_id)
        return Principal(
            found.subject, found.name, found.role, found.projects, expires=found.expires_at
        )


def _require_valid(found: TokenRecord) -> None:
    if found.revoked_at is not None:
        raise TokenRefused("the token has been revoked")
    if not found.is_valid(datetime.now(UTC)):
        raise TokenRefused("the token has expired")


class BootstrapVerifier:
    """Knows the one token of the first steps after an installation, by its SHA-256."""

    def __init__(self, sha256: str) -> None:
        self._digest = sha256.strip().lower()

    async def verify(self, token: str) -> Principal | None:
        """See `TokenVerifier`."""
        return BOOTSTRAP if hmac.compare_digest(digest_of(token), self._digest) else None


class Verifiers:
    """Asks verifiers in order; believes for CACHE_SECONDS what the first that knew a token said.

    Only tokens that were valid are remembered. Requests that send the same token at once wait for
    one verification.
    """

    def __init__(
        self, verifiers: Sequence[TokenVerifier], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._verifiers = verifiers
        self._clock = clock
        self._cached: OrderedDict[str, tuple[float, Principal]] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[Principal]] = {}

    def cached(self, token: str) -> Principal | None:
        """Gives whom a token authenticates, if it was verified within the last seconds."""
        found = self._cached.get(digest_of(token))
        if found is None or self._clock() >= found[0] or _has_expired(found[1]):
            return None
        return found[1]

    def has_known(self, token: str) -> bool:
        """Says whether a token has been valid before, and is still remembered."""
        return digest_of(token) in self._cached

    def is_verifying(self, token: str) -> bool:
        """Says whether a token is being verified for another request."""
        return digest_of(token) in self._under_way

    def forget(self, digest: str) -> None:
        """Has the token of that digest verified anew: in this process it is revoked at once."""
        self._cached.pop(digest, None)
        self._under_way.pop(digest, None)  # it may have seen the token before

    async def verify(self, token: str) -> Principal:
        """Gives whom a token authenticates.

        Raises:
            TokenRefused: it is not valid, or nobody knows it.
            Unavailable: it cannot be told at the moment.
        """
        if (known := self.cached(token)) is not None:
            return known
        digest = digest_of(token)
        task = self._under_way.get(digest)
        if task is None:
            task = self._under_way[digest] = asyncio.create_task(self._verified(token, digest))
            task.add_done_callback(partial(self._ended, digest))
        # Shielded: a client that leaves must not end it for the others.
        return await asyncio.shield(task)

    async def _verified(self, token: str, digest: str) -> Principal:
        begun = self._clock()
        try:
            principal = await self._ask(token)
        except TokenRefused:
            self._cached.pop(digest, None)
            raise
        if self._under_way.get(digest) is asyncio.current_task():  # it was not to be forgotten
            self._cached[digest] = (begun + CACHE_SECONDS, principal)
            self._cached.move_to_end(digest)
            while len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
        return principal

    def _ended(self, digest: str, task: asyncio.Task[Principal]) -> None:
        if self._under_way.get(digest) is task:
            del self._under_way[digest]
        if not task.cancelled():
            task.exception()  # retrieved, though all who waited may have left

    async def _ask(self, token: str) -> Principal:
        for verifier in self._verifiers:
            principal = await verifier.verify(token)
            if principal is not None:
                if _has_expired(principal):
                    raise TokenRefused("the token has expired")
                return principal
        raise TokenRefused("the token is not known here")


def _has_expired(principal: Principal) -> bool:
    return principal.expires is not None and datetime.now(UTC) >= principal.expires
