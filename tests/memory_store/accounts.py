"""`TokenStore` and `AuditStore` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from knit_workflows.domain.accounts.principals import (
    AuditEntry,
    AuditQuery,
    AuditRecord,
    NewToken,
    TokenRecord,
)
from knit_workflows.store.accounts import missing_token, token_exists
from tests.memory_store.memory import Part


def _now() -> datetime:
    """The real time: expiry is compared with it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class MemoryTokens(Part):
    """Tokens by id."""

    async def create(self, token: NewToken) -> TokenRecord:
        tokens, now = self.rows.tokens, _now()
        for other in tokens.values():
            if other.name == token.name and other.is_valid(now):
                raise token_exists(token.name, other.token_id)
        made = TokenRecord(
            token_id=str(uuid4()),
            name=token.name,
            role=token.role,
            digest=token.digest,
            prefix=token.prefix,
            projects=token.projects,
            created_at=now,
            created_by=token.created_by,
            expires_at=token.expires_at,
        )
        tokens[made.token_id] = made
        return made

    async def all(self) -> Sequence[TokenRecord]:
        return list(reversed(self.rows.tokens.values()))

    async def find(self, digest: str) -> TokenRecord | None:
        return next((one for one in self.rows.tokens.values() if one.digest == digest), None)

    async def used(self, token_id: str) -> None:
        one, now = self.rows.tokens[token_id], _now()
        if one.last_used_at is None or one.last_used_at < now - timedelta(minutes=1):
            self.rows.tokens[token_id] = replace(one, last_used_at=now)

    async def revoke(self, token_id: str, *, actor: str) -> TokenRecord:
        one = self.rows.tokens.get(token_id)
        if one is None:
            raise missing_token(token_id)
        if one.revoked_at is None:
            one = replace(one, revoked_at=_now(), revoked_by=actor)
            self.rows.tokens[token_id] = one
        return one


class MemoryAudit(Part):
    """Requests, in the order in which they began."""

    async def begin(self, record: AuditRecord) -> int:
        entries, now = self.rows.audit, _now()
        ended_at = None if record.status is None else now
        entries.append(AuditEntry(len(entries) + 1, now, record, ended_at, record.status))
        return len(entries)

    async def end(
        self, entry_id: int, status: int, *, made: Mapping[str, str] | None = None
    ) -> None:
        entries = self.rows.audit
        one = entries[entry_id - 1]
        if one.ended_at is None:
            record = replace(one.record, targets={**one.record.targets, **(made or {})})
            entries[entry_id - 1] = replace(one, record=record, ended_at=_now(), status=status)

    async def find(
        self, query: AuditQuery, *, limit: int, after: int | None = None
    ) -> Sequence[AuditEntry]:
        found = [
            one
            for one in reversed(self.rows.audit)
            if query.actor in (None, one.record.actor, one.record.subject)
            and (query.since is None or one.at >= query.since)
            and (query.until is None or one.at < query.until)
            and (after is None or one.entry_id < after)
        ]
        return found[:limit]
