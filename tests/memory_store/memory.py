"""What the store in memory remembers: rows by id, as plain as tables, and a clock that ticks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from knit_workflows.domain.accounts.principals import AuditEntry, TokenRecord
from knit_workflows.domain.hooks import HookDelivery, Hooks, HooksInForce
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.imports import SigningKey
from knit_workflows.domain.plans.model import (
    IMPORTED,
    UPLOADED,
    Image,
    PlanOutput,
    PlanSpec,
)
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.runs.run import Exit, RunEvent, RunStatus, Used, Waiting
from knit_workflows.domain.tags import KEY_TIMESTAMP, Tag, parse_timestamp, timestamp_tag

START = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)


@dataclass
class PlanRow:
    """A Plan; `name` is None unless it is a built-in one."""

    plan_id: PlanId
    spec: PlanSpec
    created_at: datetime
    name: str | None = None


@dataclass
class RunRow:
    """A Run; `inputs` and `outputs` map paths to Data, the log's path is None."""

    run_id: RunId
    plan_id: PlanId
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    priority: int = 0
    generation: int = 1
    exit: Exit | None = None
    used: Used | None = None
    waiting: Waiting | None = None
    notes: tuple[str, ...] = ()
    relaunches: int = 0
    inputs: dict[str, KnitId] = field(default_factory=dict)
    outputs: dict[str | None, KnitId] = field(default_factory=dict)
    events: list[RunEvent] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class DataRow:
    """A Data, where its Run makes it (None: the log), and the Runs that use it, oldest first."""

    knit_id: KnitId
    run_id: RunId
    path: str | None
    tags: set[Tag]
    timestamp: datetime | None = None
    users: list[RunId] = field(default_factory=list)
    adopted_volume: str | None = None
    purged: bool = False


class Memory:
    """All rows; `broken` is raised by whoever looks at them while it is set."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self.plans: dict[str, PlanRow] = {}
        self.identities: dict[str, PlanId] = {}
        self.runs: dict[str, RunRow] = {}
        self.assignments: dict[tuple[str, bytes], RunId] = {}
        """The one Run of a Plan and an assignment (`matching.assignment_hash`)."""
        self.data: dict[str, DataRow] = {}
        self.tags: set[Tag] = set()
        """Every user tag that was ever used."""
        self.transfers: dict[str, TransferRecord] = {}
        self.transfers_since: dict[str, datetime] = {}
        """When each of them began, or was last read by."""
        self.keys: dict[str, SigningKey] = {}
        """The keys of imports by name."""
        self.tokens: dict[str, TokenRecord] = {}
        self.audit: list[AuditEntry] = []
        self.hooks = HooksInForce(Hooks(), start)
        self.deliveries: dict[str, HookDelivery] = {}
        self.broken: Exception | None = None
        self.asked: list[object] = []
        """Every query so far."""
        self.statuses_at_tagging: list[RunStatus] = []
        """How the Run of a Data stood whenever the Data's tags were changed."""

    def now(self) -> datetime:
        """Gives an instant later than any before."""
        self._now += timedelta(milliseconds=1)
        return self._now


class Part:
    """A part of the store, by noun."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    @property
    def rows(self) -> Memory:
        """What is remembered; raises what the test has set in place of an answer."""
        if self._memory.broken is not None:
            raise self._memory.broken
        return self._memory


def add_built_in_plans(memory: Memory) -> None:
    """Adds the Plans whose Runs are uploads and imports."""
    for name, path in ((UPLOADED, "/upload"), (IMPORTED, "/imported")):
        plan_id = PlanId(str(uuid4()))
        spec = PlanSpec(Image("", ""), (), (PlanOutput(path, frozenset()),))
        memory.plans[plan_id] = PlanRow(plan_id, spec, memory.now(), name)


def as_shown(tag: Tag) -> Tag:
    """Gives a tag that is asked for as it is shown: an instant has many forms."""
    if tag.key != KEY_TIMESTAMP:
        return tag
    return timestamp_tag(parse_timestamp(tag.value))
