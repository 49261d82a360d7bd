"""Accounts on the wire: who calls, tokens, and the audit log."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from knit_workflows.domain.accounts.principals import Role
from knit_workflows.wire.base import Request, Response, Texts, is_absent, is_empty, optional
from knit_workflows.wire.times import WireTime


def _named(name: str, **more: Any) -> Any:
    return Field(validation_alias=name, serialization_alias=name, **more)


def _known(name: str) -> Any:
    return _named(name, default=None, exclude_if=is_absent)


class WhoAmI(Response):
    """The caller: `subject` is unique, `name` is the actor in histories.

    `projects` are the tags to which it is bound; empty: it sees everything. `expires` is when its
    token does, and left out if that never happens.
    """

    subject: str
    name: str
    role: Role
    projects: list[str]
    expires: WireTime | None = optional()


class ProtectedResource(Response):
    """How to authenticate, as RFC 9728 has it; the names in `knit_…` are for `knit login`.

    `scopes_supported` are those to ask the issuer for; without them, what it has of the usual.
    `knit_token` says which of the issuer's tokens is for this API: `id_token` or `access_token`.
    """

    resource: str
    authorization_servers: list[str] = Field(default_factory=list, exclude_if=is_empty)
    bearer_methods_supported: list[str]
    scopes_supported: list[str] = Field(default_factory=list, exclude_if=is_empty)
    knit_client_id: str | None = optional()
    knit_token: str | None = optional()


class NewToken(Request):
    """The body of `POST /tokens`.

    `expiresIn` is a duration as Go writes it (`720h`); without it the token never expires.
    `projects` are tags, `key:value`.
    """

    name: str
    role: Role
    projects: Texts = Field(default_factory=list)
    expires_in: str | None = _named("expiresIn", default=None)


class Token(Response):
    """A token, as it is kept; its text is nowhere but in the response that made it."""

    token_id: str = _named("tokenId")
    name: str
    role: Role
    projects: list[str]
    prefix: str
    created_at: WireTime = _named("createdAt")
    created_by: str = _named("createdBy")
    expires_at: WireTime | None = _known("expiresAt")
    revoked_at: WireTime | None = _known("revokedAt")
    revoked_by: str | None = _known("revokedBy")
    last_used_at: WireTime | None = _known("lastUsedAt")


class MadeToken(Token):
    """A token that has just been made; `token` is its text, which is never shown again."""

    token: str


class AuditEntry(Response):
    """One request: who asked for what, when, and from where.

    `route` is the declared path, `targets` has the ids in it, and those of what was made. `status`
    and `endedAt` say how it has ended; without them nobody knows. `subject` and `actor` are empty
    for a caller who was not known.
    """

    id: int
    at: WireTime
    subject: str
    actor: str
    method: str
    route: str
    targets: dict[str, str]
    address: str
    status: int | None = optional()
    ended_at: WireTime | None = _known("endedAt")
