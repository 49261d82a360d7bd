"""The tables, as SQLModel classes: what the migrations must arrive at (a test compares them).

Only migrations and tests import this module; statements are the named SQL beside each module.

```
plan 1─n plan_input, plan_output n─m tag          run 1─n run_input n─1 data
plan 1─n run 1─n data (one per plan_output) n─m tag      run 1─n run_event
```
Lineage is `data.run_id` (producer) and `run_input` (consumers). All instants are aware and whole
milliseconds, the precision in which they are shown.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlmodel import Field, SQLModel

NAMING: Final = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
}

metadata: Final = MetaData(naming_convention=NAMING)

_NOT_FINAL: Final = "status NOT IN ('done', 'failed', 'invalidated')"
_QUEUED: Final = "status = 'waiting' AND admitted_at IS NULL"
_STATUSES: Final = (
    "status IN ('deactivated', 'waiting', 'ready', 'starting', 'running', 'completing',"
    " 'aborting', 'done', 'failed', 'invalidated')"
)


class _Table(SQLModel):
    metadata = metadata


def _serial() -> Any:
    return Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))


def _uuid_key() -> Any:
    return Field(sa_column=Column(Uuid(as_uuid=False), primary_key=True))


def _reference(target: str, *, key: bool = False) -> Any:
    kind: Any = BigInteger if target.split(".")[1] in _SERIALS else Uuid(as_uuid=False)
    return Field(sa_column=Column(kind, ForeignKey(target), primary_key=key, nullable=False))


_SERIALS: Final = frozenset({"tag_id", "input_id", "output_id"})


def _instant(*, nullable: bool = False) -> Any:
    kind = TIMESTAMP(timezone=True, precision=3)
    return Field(sa_column=Column(kind, nullable=nullable))


def _text(*, nullable: bool = False) -> Any:
    return Field(sa_column=Column(Text, nullable=nullable))


def _text_or_nothing() -> Any:
    return Field(sa_column=Column(Text, nullable=False, server_default=text("''")))


def _json(default: str) -> Any:
    return Field(sa_column=Column(JSONB, nullable=False, server_default=text(f"'{default}'")))


def _texts() -> Any:
    return Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))


class Tag(_Table, table=True):
    """One `key:value` pair, interned: stored once, never removed.

    Unique by a digest, since values are larger than what an index holds.
    """

    __tablename__ = "tag"
    __table_args__ = (UniqueConstraint("digest", name="uq_tag_digest"),)

    tag_id: int = _serial()
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    key: str = _text()
    value: str = _text()


class Plan(_Table, table=True):
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

    plan_id: str = _uuid_key()
    identity_hash: str | None = _text(nullable=True)
    name: str | None = _text(nullable=True)
    repository: str | None = _text(nullable=True)
    image_tag: str | None = _text(nullable=True)
    image_digest: str = Field(sa_column=Column(Text, nullable=False, server_default=text("''")))
    entrypoint: list[str] = _texts()
    args: list[str] = _texts()
    on_node: list[list[str]] = _json("[]")
    resources: dict[str, str] = _json("{}")
    service_account: str | None = _text(nullable=True)
    annotations: list[list[str]] = _json("[]")
    active: bool = Field(sa_column_kwargs={"server_default": text("true")})
    priority: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    created_at: datetime = _instant()
    options: dict[str, Any] = _json("{}")


class PlanInput(_Table, table=True):
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

    input_id: int = _serial()
    plan_id: str = _reference("plan.plan_id")
    position: int = Field(sa_column=Column(SmallInteger, nullable=False))
    path: str = _text()
    tag_count: int = Field(sa_column=Column(Integer, nullable=False))
    pinned_knit_id: str | None = _text(nullable=True)
    pinned_timestamp: datetime | None = _instant(nullable=True)


class PlanInputTag(_Table, table=True):
    """A user tag that an input requires."""

    __tablename__ = "plan_input_tag"
    __table_args__ = (Index("ix_plan_input_tag_input", "input_id", "tag_id"),)

    tag_id: int = _reference("tag.tag_id", key=True)
    input_id: int = _reference("plan_input.input_id", key=True)


class PlanOutput(_Table, table=True):
    """An output of a Plan; its log is one too."""

    __tablename__ = "plan_output"
    __table_args__ = (
        UniqueConstraint("plan_id", "position", name="uq_plan_output_position"),
        Index("ux_plan_output_log", "plan_id", unique=True, postgresql_where=text("is_log")),
    )

    output_id: int = _serial()
    plan_id: str = _reference("plan.plan_id")
    position: int = Field(sa_column=Column(SmallInteger, nullable=False))
    path: str = _text()
    is_log: bool = Field(sa_column_kwargs={"server_default": text("false")})


class PlanOutputTag(_Table, table=True):
    """A tag that an output puts on its Data."""

    __tablename__ = "plan_output_tag"
    __table_args__ = (Index("ix_plan_output_tag_output", "output_id", "tag_id"),)

    tag_id: int = _reference("tag.tag_id", key=True)
    output_id: int = _reference("plan_output.output_id", key=True)


class Run(_Table, table=True):
    """One combination of Data under a Plan. Uploads have no inputs and no `assignment_hash`.

    `admitted_at` says that it may have a workflow, `workflow_started_at` that it has one;
    `used_*` and `image_digest` are what its pod was really given, `notes` what its exit does not
    tell; `hook_env` is what Before hooks want in the container's environment, until its pod is
    there.
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

    run_id: str = _uuid_key()
    plan_id: str = _reference("plan.plan_id")
    assignment_hash: bytes | None = Field(sa_column=Column(LargeBinary, nullable=True))
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("1")))
    status: str = _text()
    exit_code: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
    exit_message: str | None = _text(nullable=True)
    priority: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    admitted_at: datetime | None = _instant(nullable=True)
    workflow_started_at: datetime | None = _instant(nullable=True)
    created_at: datetime = _instant()
    updated_at: datetime = _instant()
    image_digest: str | None = _text(nullable=True)
    used_resources: dict[str, str] | None = Field(sa_column=Column(JSONB, nullable=True))
    used_service_account: str | None = _text(nullable=True)
    used_options: dict[str, Any] = Field(
        sa_column=Column(JSONB, nullable=False, server_default=text("'{}'"))
    )
    holdup: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True), nullable=True))
    notes: list[str] | None = Field(sa_column=Column(ARRAY(Text), nullable=True))
    hook_env: dict[str, str] | None = Field(
        sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )


class Data(_Table, table=True):
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

    knit_id: str = _uuid_key()
    run_id: str = _reference("run.run_id")
    output_id: int = _reference("plan_output.output_id")
    volume: str = _text()
    timestamp: datetime | None = _instant(nullable=True)
    owned: bool = Field(sa_column_kwargs={"server_default": text("true")})
    purged_at: datetime | None = _instant(nullable=True)


class DataTag(_Table, table=True):
    """A user tag of a Data.

    `timestamp` is that of the Data: a trigger copies it when it is set; tags are added under a lock
    on the Data.
    """

    __tablename__ = "data_tag"
    __table_args__ = (
        Index("ix_data_tag_data", "knit_id", "tag_id"),
        Index("ix_data_tag_time", "tag_id", "timestamp", "knit_id"),
    )

    tag_id: int = _reference("tag.tag_id", key=True)
    knit_id: str = _reference("data.knit_id", key=True)
    timestamp: datetime | None = _instant(nullable=True)


class RunInput(_Table, table=True):
    """Which Data a Run has at which input."""

    __tablename__ = "run_input"
    __table_args__ = (Index("ix_run_input_data", "knit_id", "run_id", "input_id"),)

    run_id: str = _reference("run.run_id", key=True)
    input_id: int = _reference("plan_input.input_id", key=True)
    knit_id: str = _reference("data.knit_id")


class RunEvent(_Table, table=True):
    """One change of a Run's status, by knit or a user; append-only.

    `timeline` maps milestones that were known then to instants, for those changes that tell of any.
    `used` is with what a launch made volumes or pod: `resources`, `service_account`, `options`.
    """

    __tablename__ = "run_event"
    __table_args__ = (Index("ix_run_event_run", "run_id", "event_id"),)

    event_id: int = _serial()
    run_id: str = _reference("run.run_id")
    generation: int = Field(sa_column=Column(Integer, nullable=False))
    at: datetime = _instant()
    from_status: str | None = _text(nullable=True)
    to_status: str = _text()
    cause: str = _text()
    exit_code: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
    exit_message: str | None = _text(nullable=True)
    actor: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'knit'")))
    timeline: dict[str, str] | None = Field(
        sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )
    used: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True), nullable=True))


class Hooks(_Table, table=True):
    """The hooks in force, in its single row: URLs in the order in which they are called.

    `worker` has put them in force, from `file`, whose content has the SHA-256 `digest`; all three
    are NULL as long as no hooks file was read.
    """

    __tablename__ = "hooks"
    __table_args__ = (CheckConstraint("singleton", name="ck_hooks_singleton"),)

    singleton: bool = Field(
        sa_column=Column(Boolean, primary_key=True, server_default=text("true"))
    )
    before_urls: list[str] = _texts()
    after_urls: list[str] = _texts()
    changed_at: datetime = _instant()
    worker: str | None = _text(nullable=True)
    file: str | None = _text(nullable=True)
    digest: str | None = _text(nullable=True)


class HookFollower(_Table, table=True):
    """A worker that followed a hooks file at `seen_at`, and found it like that `since`.

    `problem` says why the file is refused; empty if it is not.
    """

    __tablename__ = "hook_follower"

    worker: str = Field(sa_column=Column(Text, primary_key=True))
    file: str = _text()
    digest: str = _text()
    problem: str = _text()
    since: datetime = _instant()
    seen_at: datetime = _instant()


class HookDelivery(_Table, table=True):
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

    delivery_id: str = _uuid_key()
    run_id: str = _reference("run.run_id")
    generation: int = Field(sa_column=Column(Integer, nullable=False))
    from_status: str = _text()
    to_status: str = _text()
    phase: str = _text()
    url: str = _text()
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    state: str = _text()
    status_code: int | None = Field(sa_column=Column(SmallInteger, nullable=True))
    answer: str | None = _text(nullable=True)
    duration_ms: int | None = Field(sa_column=Column(Integer, nullable=True))
    created_at: datetime = _instant()
    called_at: datetime = _instant()
    next_at: datetime | None = _instant(nullable=True)
    skipped_by: str | None = _text(nullable=True)
    skip_reason: str | None = _text(nullable=True)


class Outbox(_Table, table=True):
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

    event_id: int = _serial()
    kind: str = _text()
    subject: str = Field(sa_column=Column(Uuid(as_uuid=False), nullable=False))
    payload: dict[str, Any] = _json("{}")
    cursor: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True), nullable=True))
    created_at: datetime = _instant()


class Transfer(_Table, table=True):
    """One open transfer of a Data; `endpoint` is empty until the back-end has opened it."""

    __tablename__ = "transfer"
    __table_args__ = (
        CheckConstraint("mode IN ('read', 'write')", name="ck_transfer_mode"),
        Index("ux_transfer_write", "knit_id", unique=True, postgresql_where=text("mode = 'write'")),
        Index("ix_transfer_data", "knit_id"),
    )

    transfer_id: str = Field(sa_column=Column(Text, primary_key=True))
    knit_id: str = _reference("data.knit_id")
    mode: str = _text()
    token: str = _text()
    endpoint: str = Field(sa_column=Column(Text, nullable=False, server_default=text("''")))
    created_at: datetime = _instant()


class WarmVolume(_Table, table=True):
    """A volume that waits for an upload, and its transfer pod.

    `until`: how long its keeper holds it or, if it is ready, when to look after it again.
    """

    __tablename__ = "warm_volume"
    __table_args__ = (
        CheckConstraint("state IN ('making', 'ready', 'ending')", name="ck_warm_volume_state"),
    )

    volume: str = Field(sa_column=Column(Text, primary_key=True))
    knit_id: str = _text()
    kind: str = _text()
    token: str = _text()
    state: str = _text()
    keeper: str = _text()
    until: datetime = _instant()
    created_at: datetime = _instant()


class Discarded(_Table, table=True):
    """A volume to delete: its Data was discarded by a retry or deletion."""

    __tablename__ = "discarded"
    __table_args__ = (Index("ix_discarded_at", "at", "knit_id"),)

    knit_id: str = _uuid_key()
    volume: str = _text()
    at: datetime = _instant()


class ImportKey(_Table, table=True):
    """A key that signs, and then only verifies, the tokens of imports."""

    __tablename__ = "import_key"

    kid: str = Field(sa_column=Column(Text, primary_key=True))
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = _instant()


class Token(_Table, table=True):
    """A token of knit's own: the SHA-256 of its text, and the beginning that is shown.

    `projects` are pairs of key and value. Names are unique among those that are valid.
    """

    __tablename__ = "token"
    __table_args__ = (
        UniqueConstraint("digest", name="uq_token_digest"),
        CheckConstraint("role IN ('viewer', 'editor', 'operator', 'admin')", name="ck_token_role"),
        Index("ix_token_name", "name", postgresql_where=text("revoked_at IS NULL")),
    )

    token_id: str = _uuid_key()
    name: str = _text()
    role: str = _text()
    projects: list[list[str]] = _json("[]")
    digest: str = _text()
    prefix: str = _text()
    created_at: datetime = _instant()
    created_by: str = _text()
    expires_at: datetime | None = _instant(nullable=True)
    revoked_at: datetime | None = _instant(nullable=True)
    revoked_by: str | None = _text(nullable=True)
    last_used_at: datetime | None = _instant(nullable=True)


class Audit(_Table, table=True):
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

    entry_id: int = _serial()
    outcome_of: int | None = Field(
        sa_column=Column(BigInteger, ForeignKey("audit.entry_id"), nullable=True)
    )
    at: datetime = _instant()
    subject: str = _text_or_nothing()
    actor: str = _text_or_nothing()
    method: str = _text_or_nothing()
    route: str = _text_or_nothing()
    targets: dict[str, str] = _json("{}")
    address: str = _text_or_nothing()
    status: int | None = Field(sa_column=Column(SmallInteger, nullable=True))


class Admission(_Table, table=True):
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
    held: str | None = _text(nullable=True)
