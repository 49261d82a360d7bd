"""Plans, Runs and Data, their tags, and what became of Runs: what users see.

```
plan 1─n plan_input, plan_output n─m tag          run 1─n run_input n─1 data
plan 1─n run 1─n data (one per plan_output) n─m tag      run 1─n run_event
```
Lineage is `data.run_id` (producer) and `run_input` (consumers).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field

from knit_workflows.store.tables import columns

_NOT_FINAL: Final = "status NOT IN ('done', 'failed', 'invalidated')"
_QUEUED: Final = "status = 'waiting' AND admitted_at IS NULL"
_STATUSES: Final = (
    "status IN ('deactivated', 'waiting', 'ready', 'starting', 'running', 'completing',"
    " 'aborting', 'done', 'failed', 'invalidated')"
)


class Tag(columns.Table, table=True):
    """One `key:value` pair, interned: stored once, never removed.

    Unique by a digest, since values are larger than what an index holds.
    """

    __tablename__ = "tag"
    __table_args__ = (UniqueConstraint("digest", name="uq_tag_digest"),)

    tag_id: int = columns.serial()
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    key: str = columns.text()
    value: str = columns.text()


class Plan(columns.Table, table=True):
    """A user's Plan (with an image and an identity) or a built-in one (with a name)."""

    __tablename__ = "plan"
    __table_args__ = (
        UniqueConstraint("identity_hash", name="uq_plan_identity_hash"),
        UniqueConstraint("name", name="uq_plan_name"),
        CheckConstraint(
            "(name IS NULL) = (repository IS NOT NULL AND image_tag IS NOT NULL"
            " AND identity_hash IS NOT NULL)",
            name="ck_plan_image_or_name",
        ),
    )

    plan_id: str = columns.uuid_key()
    identity_hash: str | None = columns.text(nullable=True)
    name: str | None = columns.text(nullable=True)
    repository: str | None = columns.text(nullable=True)
    image_tag: str | None = columns.text(nullable=True)
    image_digest: str = Field(sa_column=Column(Text, nullable=False, server_default=text("''")))
    entrypoint: list[str] = columns.texts()
    args: list[str] = columns.texts()
    on_node: list[list[str]] = columns.json("[]")
    resources: dict[str, str] = columns.json("{}")
    service_account: str | None = columns.text(nullable=True)
    annotations: list[list[str]] = columns.json("[]")
    active: bool = Field(sa_column_kwargs={"server_default": text("true")})
    priority: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    created_at: datetime = columns.instant()
    options: dict[str, Any] = columns.json("{}")


class PlanInput(columns.Table, table=True):
    """A hole of a Plan. `position` counts in path order; `tag_count` counts its user tags."""

    __tablename__ = "plan_input"
    __table_args__ = (
        UniqueConstraint("plan_id", "position", name="uq_plan_input_position"),
        UniqueConstraint("plan_id", "path", name="uq_plan_input_path"),
        Index(
            "ix_plan_input_pinned_knit_id",
            "pinned_knit_id",
            postgresql_where=text("pinned_knit_id IS NOT NULL"),
        ),
        Index(
            "ix_plan_input_pinned_timestamp",
            "pinned_timestamp",
            postgresql_where=text("pinned_timestamp IS NOT NULL"),
        ),
    )

    input_id: int = columns.serial()
    plan_id: str = columns.reference("plan.plan_id")
    position: int = Field(sa_column=Column(SmallInteger, nullable=False))
    path: str = columns.text()
    tag_count: int = Field(sa_column=Column(Integer, nullable=False))
    pinned_knit_id: str | None = columns.text(nullable=True)
    pinned_timestamp: datetime | None = columns.instant(nullable=True)


class PlanInputTag(columns.Table, table=True):
    """A user tag that an input requires."""

    __tablename__ = "plan_input_tag"
    __table_args__ = (Index("ix_plan_input_tag_input", "input_id", "tag_id"),)

    tag_id: int = columns.reference("tag.tag_id", key=True)
    input_id: int = columns.reference("plan_input.input_id", key=True)


class PlanOutput(columns.Table, table=True):
    """An output of a Plan; its log is one too."""

    __tablename__ = "plan_output"
    __table_args__ = (
        UniqueConstraint("plan_id", "position", name="uq_plan_output_position"),
        Index("ux_plan_output_log", "plan_id", unique=True, postgresql_where=text("is_log")),
    )

    output_id: int = columns.serial()
    plan_id: str = columns.reference("plan.plan_id")
    position: int = Field(sa_column=Column(SmallInteger, nullable=False))
    path: str = columns.text()
    is_log: bool = Field(sa_column_kwargs={"server_default": text("false")})


class PlanOutputTag(columns.Table, table=True):
    """A tag that an output puts on its Data."""

    __tablename__ = "plan_output_tag"
    __table_args__ = (Index("ix_plan_output_tag_output", "output_id", "tag_id"),)

    tag_id: int = columns.reference("tag.tag_id", key=True)
    output_id: int = columns.reference("plan_output.output_id", key=True)


class Run(columns.Table, table=True):
    """One combination of Data under a Plan. Uploads have no inputs and no `assignment_hash`.

    `admitted_at` says that it may have a workflow, `workflow_started_at` that it has one;
    `used_*` and `image_digest` are what its pod was really given, `notes` what its exit does not
    tell; `hook_env` is what Before hooks want in the container's environment, until its pod is
    there or will never be.
    """

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("plan_id", "assignment_hash", name="uq_run_assignment"),
        CheckConstraint(_STATUSES, name="ck_run_status"),
        Index("ix_run_status", "status", "updated_at", "run_id"),
        Index("ix_run_plan", "plan_id", "status", "updated_at", "run_id"),
        Index(
            "ix_run_queue_of_plan",
            "plan_id",
            text("priority DESC"),
            "created_at",
            "run_id",
            postgresql_where=text(_QUEUED),
        ),
        Index("ix_run_deactivated", "plan_id", postgresql_where=text("status = 'deactivated'")),
        Index(
            "ix_run_admitted",
            "plan_id",
            postgresql_where=text(f"admitted_at IS NOT NULL AND {_NOT_FINAL}"),
        ),
        Index(
            "ix_run_stopped_unadmitted",
            "run_id",
            postgresql_where=text("status = 'aborting' AND admitted_at IS NULL"),
        ),
    )

    run_id: str = columns.uuid_key()
    plan_id: str = columns.reference("plan.plan_id")
    assignment_hash: bytes | None = Field(sa_column=Column(LargeBinary, nullable=True))
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("1")))
    status: str = columns.text()
    exit_code: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
    exit_message: str | None = columns.text(nullable=True)
    priority: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    admitted_at: datetime | None = columns.instant(nullable=True)
    workflow_started_at: datetime | None = columns.instant(nullable=True)
    created_at: datetime = columns.instant()
    updated_at: datetime = columns.instant()
    image_digest: str | None = columns.text(nullable=True)
    used_resources: dict[str, str] | None = Field(sa_column=Column(JSONB, nullable=True))
    used_service_account: str | None = columns.text(nullable=True)
    used_options: dict[str, Any] = Field(
        sa_column=Column(JSONB, nullable=False, server_default=text("'{}'"))
    )
    holdup: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True), nullable=True))
    notes: list[str] | None = Field(sa_column=Column(ARRAY(Text), nullable=True))
    hook_env: dict[str, str] | None = Field(
        sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )


class Data(columns.Table, table=True):
    """One immutable volume; its status is that of the Run that makes it.

    knit deletes only volumes that it owns. Once purged, a Data is its tags and lineage alone.
    """

    __tablename__ = "data"
    __table_args__ = (
        UniqueConstraint("run_id", "output_id", name="uq_data_run_output"),
        Index("ix_data_timestamp", "timestamp", "knit_id"),
        Index(
            "ux_data_adopted",
            "volume",
            unique=True,
            postgresql_where=text("NOT owned AND purged_at IS NULL"),
        ),
    )

    knit_id: str = columns.uuid_key()
    run_id: str = columns.reference("run.run_id")
    output_id: int = columns.reference("plan_output.output_id")
    volume: str = columns.text()
    timestamp: datetime | None = columns.instant(nullable=True)
    owned: bool = Field(sa_column_kwargs={"server_default": text("true")})
    purged_at: datetime | None = columns.instant(nullable=True)


class DataTag(columns.Table, table=True):
    """A user tag of a Data.

    `timestamp` is that of the Data: a trigger copies it when it is set; tags are added under a lock
    on the Data.
    """

    __tablename__ = "data_tag"
    __table_args__ = (
        Index("ix_data_tag_data", "knit_id", "tag_id"),
        Index("ix_data_tag_time", "tag_id", "timestamp", "knit_id"),
    )

    tag_id: int = columns.reference("tag.tag_id", key=True)
    knit_id: str = columns.reference("data.knit_id", key=True)
    timestamp: datetime | None = columns.instant(nullable=True)


class ContentHash(columns.Table, table=True):
    """What the files of a Data were when they were first read: `backup.content.hashing`.

    `tried_at`: when they were last read, whatever came of it. `checked_at`: when they were last
    found to be the same. `size`: bytes of the archive then. All but `tried_at` are NULL as long as
    they could not be read.
    """

    __tablename__ = "content_hash"

    knit_id: str = Field(
        sa_column=Column(
            Uuid(as_uuid=False), ForeignKey("data.knit_id", ondelete="CASCADE"), primary_key=True
        )
    )
    tried_at: datetime = columns.instant()
    sha256: str | None = columns.text(nullable=True)
    size: int | None = Field(sa_column=Column(BigInteger, nullable=True))
    recorded_at: datetime | None = columns.instant(nullable=True)
    recorded_by: str | None = columns.text(nullable=True)
    checked_at: datetime | None = columns.instant(nullable=True)


class RunInput(columns.Table, table=True):
    """Which Data a Run has at which input."""

    __tablename__ = "run_input"
    __table_args__ = (Index("ix_run_input_data", "knit_id", "run_id", "input_id"),)

    run_id: str = columns.reference("run.run_id", key=True)
    input_id: int = columns.reference("plan_input.input_id", key=True)
    knit_id: str = columns.reference("data.knit_id")


class RunEvent(columns.Table, table=True):
    """One change of a Run's status, by knit or a user; append-only.

    `timeline` maps milestones that were known then to instants, for those changes that tell of any.
    `used` is with what a launch made volumes or pod: `resources`, `service_account`, `options`.
    """

    __tablename__ = "run_event"
    __table_args__ = (Index("ix_run_event_run", "run_id", "event_id"),)

    event_id: int = columns.serial()
    run_id: str = columns.reference("run.run_id")
    generation: int = Field(sa_column=Column(Integer, nullable=False))
    at: datetime = columns.instant()
    from_status: str | None = columns.text(nullable=True)
    to_status: str = columns.text()
    cause: str = columns.text()
    exit_code: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
    exit_message: str | None = columns.text(nullable=True)
    actor: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'knit'")))
    timeline: dict[str, str] | None = Field(
        sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )
    used: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True), nullable=True))
