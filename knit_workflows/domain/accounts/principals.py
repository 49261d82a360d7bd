"""Who calls: subjects, their roles, the projects they are bound to, tokens, and the audit log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from knit_workflows.domain.errors import InvalidRequest
from knit_workflows.domain.tags import Tag


class Role(StrEnum):
    """What a subject may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    """Sees everything: lists, lineage, logs, content of Data."""
    EDITOR = "editor"
    """Makes and changes Data, Plans and Runs."""
    OPERATOR = "operator"
    """Steers for others: hooks, adoption, purge, imports."""
    ADMIN = "admin"
    """Gives others access, and sees what everybody did."""

    def includes(self, other: Role) -> bool:
        """Says whether this role may do all that the other may."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER: Final = tuple(Role)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    `subject` is unique and stable: `token:NAME` for a token of knit's, `oidc:SUBJECT` for a user of
    an identity provider, `user` where accounts are off. `name` is for people; it is the actor in
    histories. `projects`: the caller sees and changes only what has one of these tags; none: all.
    """

    subject: str
    name: str
    role: Role
    projects: frozenset[Tag] = frozenset()
    expires: datetime | None = None


RESERVED_NAMES: Final = frozenset({"knit", "user", "bootstrap"})
"""Actors of histories that are no token: knit itself, anybody without accounts, the first token."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def checked_token_name(name: str) -> str:
    """Gives the name of a token as it is; raises InvalidRequest if it cannot have that name."""
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"bad request: a token cannot be called {name[:80]!r}",
            advice="write at most 64 letters, digits and any of . _ @ -, a letter or digit first",
        )
    if name in RESERVED_NAMES:
        raise InvalidRequest(
            f"bad request: {name!r} is not the name of a token, since histories mean others by it",
            advice="choose another name, that of the person or program that will have it",
        )
    return name


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token as it is to be kept: never its text, only `digest`, its SHA-256 in hexadecimal."""

    name: str
    role: Role
    digest: str
    prefix: str
    created_by: str
    projects: frozenset[Tag] = frozenset()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it is kept; `last_used_at` is exact to a minute."""

    token_id: str
    name: str
    role: Role
    digest: str = field(repr=False)
    prefix: str
    projects: frozenset[Tag]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Says whether it opens anything at that instant."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def subject(self) -> str:
        """The subject that it authenticates."""
        return f"token:{self.name}"


_FREEING: Final = ("/abort", "/tearoff", "/purge")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One request, before it is carried out: who asks for what, from where.

    `route` is the declared path (`/api/runs/{run_id}`), `targets` what stood in its places.
    `subject` is empty for a caller who is not known. `status` is set only for a request that is
    refused at once.
    """

    subject: str
    actor: str
    method: str
    route: str
    targets: Mapping[str, str]
    address: str
    status: int | None = None

    @property
    def frees_space(self) -> bool:
        """Whether the request ends or removes something, which must be possible on a full disk."""
        return self.method == "DELETE" or self.route.endswith(_FREEING)


MAX_ROUTE: Final = 500
"""Characters that are kept of a path that no route declares, and of each target."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A record, and how the request has ended; without a status nobody knows."""

    entry_id: int
    at: datetime
    record: AuditRecord
    ended_at: datetime | None
    status: int | None


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """The filter of the audit log; `actor` is a name or a subject. `until` is exclusive."""

    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
