"""The part of the client that is about accounts: who calls, tokens, the audit log."""

from __future__ import annotations

from datetime import datetime

from knit_cli.api.addresses import segment, window
from knit_cli.api.requests import Requests
from knit_workflows.wire.accounts import (
    AuditEntry,
    MadeToken,
    NewToken,
    ProtectedResource,
    Token,
    WhoAmI,
)
from knit_workflows.wire.base import to_wire

METADATA_PATH = "/.well-known/oauth-protected-resource"


class AccountsClient:
    """Callers and their tokens; errors are those of `ApiClient`."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def protected_resource(self) -> ProtectedResource:
        """Says where the users of this API log in (RFC 9728)."""
        # Beside `…/api`, at the root of knit's server.
        url = f"{self._requests.root.removesuffix('/api')}{METADATA_PATH}"
        return self._requests.read(url, (), ProtectedResource, "cannot find out where to log in")

    def whoami(self) -> WhoAmI:
        """Says who the caller is."""
        return self._requests.read("/whoami", (), WhoAmI, "cannot say who you are")

    def create_token(self, new: NewToken) -> MadeToken:
        """Makes a token; not repeated after a lost response, which had its only copy."""
        failure = f"cannot create the token {new.name}"
        return self._requests.change("POST", "/tokens", MadeToken, failure, to_wire(new))

    def tokens(self) -> list[Token]:
        """Gives all tokens, newest first."""
        return self._requests.read("/tokens", (), list[Token], "cannot list the tokens")

    def revoke_token(self, token_id: str) -> Token:
        """Makes a token invalid for good; idempotent."""
        failure = f"cannot revoke the token {token_id}"
        return self._requests.change("DELETE", f"/tokens/{segment(token_id)}", Token, failure)

    def audit(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        actor: str | None = None,
        limit: int,
    ) -> tuple[list[AuditEntry], bool]:
        """Gives what callers did, the latest first; and whether there is more.

        Args:
            since: only from then on.
            until: only before then.
            actor: only of this name or subject.
            limit: the most to return, 1 to 1000.
        """
        query = [*window(since), ("limit", str(limit))]
        query += [("until", until.isoformat())] if until is not None else []
        query += [("actor", actor)] if actor is not None else []
        return self._requests.read_page(
            "/audit", query, list[AuditEntry], "cannot read the audit log"
        )
