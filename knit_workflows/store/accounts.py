"""Tokens of knit's own, and the audit log, which only grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from psycopg.types.json import Jsonb

from knit_workflows.domain.accounts.principals import (
    AuditEntry,
    AuditQuery,
    AuditRecord,
    NewToken,
    Role,
    TokenRecord,
)
from knit_workflows.domain.errors import TokenExists, TokenNotFound
from knit_workflows.domain.ids import is_id
from knit_workflows.domain.tags import Tag
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.locks import AdvisoryLock

_SQL: Final = named_sql.beside(__file__)


class PostgresTokenStore:
    """Implements `ports.TokenStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, token: NewToken) -> TokenRecord:
        """See the port."""

        async def step(session: Session) -> TokenRecord:
            await session.do(_SQL["serialize"], {"lock": AdvisoryLock.TOKENS})
            taken = await session.row(_SQL["valid_by_name"], {"name": token.name})
            if taken is not None:
                raise token_exists(token.name, taken.token_id)
            row = await session.row(
                _SQL["create"],
                {
                    "token_id": str(uuid4()),
                    "name": token.name,
                    "role": token.role.value,
                    "projects": Jsonb([[one.key, one.value] for one in sorted(token.projects)]),
                    "digest": token.digest,
                    "prefix": token.prefix,
                    "created_by": token.created_by,
                    "expires_at": token.expires_at,
                },
            )
            return _record(row)

        return await self._db.transaction(step)

    async def all(self) -> Sequence[TokenRecord]:
        """See the port."""
        return [_record(row) for row in await self._db.rows(_SQL["tokens"])]

    async def find(self, digest: str) -> TokenRecord | None:
        """See the port."""
        row = await self._db.row(_SQL["token"], {"digest": digest})
        return None if row is None else _record(row)

    async def used(self, token_id: str) -> None:
        """See the port."""
        await self._db.do(_SQL["used"], {"token_id": token_id})

    async def revoke(self, token_id: str, *, actor: str) -> TokenRecord:
        """See the port."""
        asked = {"token_id": token_id, "actor": actor}
        row = await self._db.row(_SQL["revoke"], asked) if is_id(token_id) else None
        if row is None:
            raise missing_token(token_id)
        return _record(row)


class PostgresAuditStore:
    """Implements `ports.AuditStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, record: AuditRecord) -> int:
        """See the port."""
        values = {
            "subject": _plain(record.subject),
            "actor": _plain(record.actor),
            "method": _plain(record.method),
            "route": _plain(record.route),
            "targets": Jsonb({key: _plain(value) for key, value in record.targets.items()}),
            "address": _plain(record.address),
            "status": record.status,
        }

        if record.frees_space:
            row = await self._db.freeing(lambda session: session.row(_SQL["begin"], values))
        else:
            row = await self._db.row(_SQL["begin"], values)
        entry_id: int = row.entry_id
        return entry_id

    async def end(
        self, entry_id: int, status: int, *, made: Mapping[str, str] | None = None
    ) -> None:
        """See the port."""
        targets = Jsonb({key: _plain(value) for key, value in (made or {}).items()})
        await self._db.do(_SQL["end"], {"entry_id": entry_id, "status": status, "targets": targets})

    async def find(
        self, query: AuditQuery, *, limit: int, after: int | None = None
    ) -> Sequence[AuditEntry]:
        """See the port."""
        conditions = ["b.outcome_of IS NULL"]
        if query.actor is not None:
            conditions.append("(b.actor = %(actor)s OR b.subject = %(actor)s)")
        if query.since is not None:
            conditions.append("b.at >= %(since)s")
        if query.until is not None:
            conditions.append("b.at < %(until)s")
        if after is not None:
            conditions.append("b.entry_id < %(after)s")
        rows = await self._db.rows(
            named_sql.filled(_SQL["entries"], where=" AND ".join(conditions)),
            {
                "actor": None if query.actor is None else _plain(query.actor),
                "since": query.since,
                "until": query.until,
                "after": after,
                "limit": limit,
            },
        )
        return [_entry(row) for row in rows]


def token_exists(name: str, token_id: str) -> TokenExists:
    """Gives the error for a name that a valid token has."""
    return TokenExists(
        f"there is a valid token called {name}",
        advice="choose another name, or revoke that token first",
        see=token_id,
    )


def missing_token(token_id: str) -> TokenNotFound:
    """Gives the error for a token that does not exist."""
    return TokenNotFound(f"there is no token {token_id}", see=token_id)


def _record(row: Any) -> TokenRecord:
    return TokenRecord(
        token_id=row.token_id,
        name=row.name,
        role=Role(row.role),
        digest=row.digest,
        prefix=row.prefix,
        projects=frozenset(Tag(key, value) for key, value in row.projects),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        last_used_at=row.last_used_at,
    )


def _entry(row: Any) -> AuditEntry:
    record = AuditRecord(
        subject=row.subject,
        actor=row.actor,
        method=row.method,
        route=row.route,
        targets=row.targets,
        address=row.address,
        status=row.status,
    )
    return AuditEntry(row.entry_id, row.at, record, row.ended_at, row.outcome)


def _plain(text: str) -> str:
    """Gives a text as PostgreSQL takes it: without NUL, and valid Unicode."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
