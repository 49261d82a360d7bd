"""Tokens of knit's own, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from knit_workflows.domain.accounts.principals import (
    AuditEntry,
    AuditQuery,
    AuditRecord,
    NewToken,
    TokenRecord,
)


class TokenStore(Protocol):
    """Keeps tokens: their digests, never their text."""

    async def create(self, token: NewToken) -> TokenRecord:
        """Keeps a token.

        Raises:
            TokenExists: a valid token has that name; `see` is its id.
        """

    async def all(self) -> Sequence[TokenRecord]:
        """Lists tokens, the newest first; those that have expired or are revoked are among them."""

    async def find(self, digest: str) -> TokenRecord | None:
        """Gives a token by its digest, valid or not; None: there is none."""

    async def used(self, token_id: str) -> None:
        """Records that a token is used now; changes nothing if that was done in the last minute."""

    async def revoke(self, token_id: str, *, actor: str) -> TokenRecord:
        """Makes a token invalid for good; a second call changes nothing.

        Raises:
            TokenNotFound: there is no such token.
        """


class AuditStore(Protocol):
    """Keeps a record of requests; nothing in it can be changed or removed."""

    async def begin(self, record: AuditRecord) -> int:
        """Records a request that is about to be carried out, or is refused; gives its id."""

    async def end(
        self, entry_id: int, status: int, *, made: Mapping[str, str] | None = None
    ) -> None:
        """Records how a request has ended, as HTTP says it. The first call counts.

        `made` are the ids of what it has made, which then belong to its targets.
        """

    async def find(
        self, query: AuditQuery, *, limit: int, after: int | None = None
    ) -> Sequence[AuditEntry]:
        """Lists requests, the latest first; at most `limit`, after (older than) the id `after`."""
