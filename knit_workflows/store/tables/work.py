"""What is still to be done: events, transfers, volumes at hand and to delete, limits in force."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from knit_workflows.store.tables import columns


class Outbox(columns.Table, table=True):
    """What must follow a commit: `subject` is a Data, a Plan or a Run, as `kind` says.

    `cursor` is where the next page of a long event begins.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('data_ready', 'tags_changed', 'plan_registered', 'stop_run')",
            name="ck_outbox_kind",
        ),
        Index("ix_outbox_projection", "event_id", postgresql_where=text("kind <> 'stop_run'")),
        Index("ix_outbox_stop", "subject", postgresql_where=text("kind = 'stop_run'")),
    )

    event_id: int = columns.serial()
    kind: str = columns.text()
    subject: str = Field(sa_column=Column(Uuid(as_uuid=False), nullable=False))
    payload: dict[str, Any] = columns.json("{}")
    cursor: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True), nullable=True))
    created_at: datetime = columns.instant()


class Transfer(columns.Table, table=True):
    """One transfer of a Data; `endpoint` is a URL, empty until the back-end has opened it.

    `state` is one of `domain.readers.TransferState`. A trigger sets it for programs from before it
    was there, which wrote `idle` and `closing` into `endpoint`.
    """

    __tablename__ = "transfer"
    __table_args__ = (
        CheckConstraint("mode IN ('read', 'write')", name="ck_transfer_mode"),
        CheckConstraint(
            "state IN ('opening', 'open', 'idle', 'closing')", name="ck_transfer_state"
        ),
        Index("ux_transfer_write", "knit_id", unique=True, postgresql_where=text("mode = 'write'")),
        Index("ix_transfer_data", "knit_id"),
    )

    transfer_id: str = Field(sa_column=Column(Text, primary_key=True))
    knit_id: str = columns.reference("data.knit_id")
    mode: str = columns.text()
    token: str = columns.text()
    endpoint: str = Field(sa_column=Column(Text, nullable=False, server_default=text("''")))
    state: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'opening'")))
    created_at: datetime = columns.instant()


class WarmVolume(columns.Table, table=True):
    """A volume that waits for an upload, and its transfer pod.

    `until`: how long its keeper holds it or, if it is ready, when to look after it again.
    """

    __tablename__ = "warm_volume"
    __table_args__ = (
        CheckConstraint("state IN ('making', 'ready', 'ending')", name="ck_warm_volume_state"),
    )

    volume: str = Field(sa_column=Column(Text, primary_key=True))
    knit_id: str = columns.text()
    kind: str = columns.text()
    token: str = columns.text()
    state: str = columns.text()
    keeper: str = columns.text()
    until: datetime = columns.instant()
    created_at: datetime = columns.instant()


class Discarded(columns.Table, table=True):
    """A volume to delete: its Data was discarded by a retry or deletion."""

    __tablename__ = "discarded"
    __table_args__ = (Index("ix_discarded_at", "at", "knit_id"),)

    knit_id: str = columns.uuid_key()
    volume: str = columns.text()
    at: datetime = columns.instant()


class Admission(columns.Table, table=True):
    """The limits in force, in its single row, so that the API can say why a Run waits.

    `held` says why no Run is admitted at all.
    """

    __tablename__ = "admission"
    __table_args__ = (CheckConstraint("singleton", name="ck_admission_singleton"),)

    singleton: bool = Field(
        sa_column=Column(Boolean, primary_key=True, server_default=text("true"))
    )
    total: int = Field(sa_column=Column(Integer, nullable=False))
    per_plan: int | None = Field(sa_column=Column(Integer, nullable=True))
    held: str | None = columns.text(nullable=True)
