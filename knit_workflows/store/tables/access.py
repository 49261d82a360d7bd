"""Who may do what, and who has done it: keys of imports, tokens, the audit log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field

from knit_workflows.store.tables import columns


class ImportKey(columns.Table, table=True):
    """A key that signs, and then only verifies, the tokens of imports."""

    __tablename__ = "import_key"

    kid: str = Field(sa_column=Column(Text, primary_key=True))
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = columns.instant()


class Token(columns.Table, table=True):
    """A token of knit's own: the SHA-256 of its text, and the beginning that is shown.

    `projects` are pairs of key and value. Names are unique among those that are valid.
    """

    __tablename__ = "token"
    __table_args__ = (
        UniqueConstraint("digest", name="uq_token_digest"),
        CheckConstraint("role IN ('viewer', 'editor', 'operator', 'admin')", name="ck_token_role"),
        Index("ix_token_name", "name", postgresql_where=text("revoked_at IS NULL")),
    )

    token_id: str = columns.uuid_key()
    name: str = columns.text()
    role: str = columns.text()
    projects: list[list[str]] = columns.json("[]")
    digest: str = columns.text()
    prefix: str = columns.text()
    created_at: datetime = columns.instant()
    created_by: str = columns.text()
    expires_at: datetime | None = columns.instant(nullable=True)
    revoked_at: datetime | None = columns.instant(nullable=True)
    revoked_by: str | None = columns.text(nullable=True)
    last_used_at: datetime | None = columns.instant(nullable=True)


class Audit(columns.Table, table=True):
    """A request before it is carried out, or (`outcome_of`) how that request has ended.

    A trigger refuses to change or remove a row. A request that is refused at once has its `status`
    in the first row.
    """

    __tablename__ = "audit"
    __table_args__ = (
        UniqueConstraint("outcome_of", name="uq_audit_outcome_of"),
        CheckConstraint("outcome_of IS NULL OR status IS NOT NULL", name="ck_audit_outcome"),
        Index("ix_audit_at", "at", postgresql_where=text("outcome_of IS NULL")),
        Index("ix_audit_actor", "actor", "entry_id", postgresql_where=text("outcome_of IS NULL")),
    )

    entry_id: int = columns.serial()
    outcome_of: int | None = Field(
        sa_column=Column(BigInteger, ForeignKey("audit.entry_id"), nullable=True)
    )
    at: datetime = columns.instant()
    subject: str = columns.text_or_nothing()
    actor: str = columns.text_or_nothing()
    method: str = columns.text_or_nothing()
    route: str = columns.text_or_nothing()
    targets: dict[str, str] = columns.json("{}")
    address: str = columns.text_or_nothing()
    status: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
