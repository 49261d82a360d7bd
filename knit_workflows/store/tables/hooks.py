"""Hooks: those in force, the workers that follow their file, and the calls of them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field

from knit_workflows.store.tables import columns


class Hooks(columns.Table, table=True):
    """The hooks in force, in its single row: URLs in the order in which they are called.

    `worker` has put them in force, from `file`, whose content has the SHA-256 `digest`; all three
    are NULL as long as no hooks file was read.
    """

    __tablename__ = "hooks"
    __table_args__ = (CheckConstraint("singleton", name="ck_hooks_singleton"),)

    singleton: bool = Field(
        sa_column=Column(Boolean, primary_key=True, server_default=text("true"))
    )
    before_urls: list[str] = columns.texts()
    after_urls: list[str] = columns.texts()
    changed_at: datetime = columns.instant()
    worker: str | None = columns.text(nullable=True)
    file: str | None = columns.text(nullable=True)
    digest: str | None = columns.text(nullable=True)


class HookFollower(columns.Table, table=True):
    """A worker that followed a hooks file at `seen_at`, and found it like that `since`.

    `problem` says why the file is refused; empty if it is not.
    """

    __tablename__ = "hook_follower"

    worker: str = Field(sa_column=Column(Text, primary_key=True))
    file: str = columns.text()
    digest: str = columns.text()
    problem: str = columns.text()
    since: datetime = columns.instant()
    seen_at: datetime = columns.instant()


class HookDelivery(columns.Table, table=True):
    """What became of the calls of one hook for one transition of a Run.

    A row is `calling` before the request is sent: one that stays so was interrupted, and nobody
    knows whether its receiver has got it.
    """

    __tablename__ = "hook_delivery"
    __table_args__ = (
        UniqueConstraint(
            "run_id",
            "generation",
            "from_status",
            "to_status",
            "phase",
            "url",
            name="uq_hook_delivery",
        ),
        CheckConstraint("phase IN ('before', 'after')", name="ck_hook_delivery_phase"),
        CheckConstraint(
            "state IN ('calling', 'succeeded', 'failed', 'skipped')", name="ck_hook_delivery_state"
        ),
        Index("ix_hook_delivery_called", "called_at", "delivery_id"),
        Index(
            "ix_hook_delivery_failed",
            "called_at",
            "delivery_id",
            postgresql_where=text("state NOT IN ('succeeded', 'skipped')"),
        ),
    )

    delivery_id: str = columns.uuid_key()
    run_id: str = columns.reference("run.run_id")
    generation: int = Field(sa_column=Column(Integer, nullable=False))
    from_status: str = columns.text()
    to_status: str = columns.text()
    phase: str = columns.text()
    url: str = columns.text()
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    state: str = columns.text()
    status_code: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
    answer: str | None = columns.text(nullable=True)
    duration_ms: int | None = Field(sa_column=Column(Integer, nullable=True))
    created_at: datetime = columns.instant()
    called_at: datetime = columns.instant()
    next_at: datetime | None = columns.instant(nullable=True)
    skipped_by: str | None = columns.text(nullable=True)
    skip_reason: str | None = columns.text(nullable=True)
