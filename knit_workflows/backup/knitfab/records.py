"""What a database of Knitfab v1.6 and earlier says, table by table put together.

All of it is in memory at once: a Data of Knitfab is a claim of a cluster, so there are not many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from knit_workflows.backup.knitfab.copy_text import read_array
from knit_workflows.backup.knitfab.dump import Dump
from knit_workflows.domain.ids import parse_id
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag

NEWEST: Final = 3
"""The schema of Knitfab v1.4 to v1.6.1; 2 is that of v1.3, 1 that of earlier ones."""
_NEEDED: Final = (
    "assign", "data", "input", "log", "output", "plan", "plan_image", "plan_pseudo", "run", "tag",
    "tag_key",
)  # fmt: skip
_KNOWN: Final = frozenset(_NEEDED) | {
    "auth_password", "data_agent", "garbage", "keychain", "knit_id", "knit_timestamp",
    "knitid_input", "nomination", "plan_annotation", "plan_args", "plan_entrypoint", "plan_on_node",
    "plan_resource", "plan_service_account", "run_exit", "schema_version", "tag_data", "tag_input",
    "tag_output", "timestamp_input", "user", "worker",
}  # fmt: skip

Fields = tuple[str | None, ...]


@dataclass(slots=True)
class Hole:
    """An input or output of a Plan; `tag_ids` are those of user tags."""

    id: int
    path: str
    tag_ids: set[int] = field(default_factory=set)
    knit_id: str | None = None
    timestamp: datetime | None = None


@dataclass(slots=True)
class KnitfabPlan:
    """A Plan: a user's has an `image`, a built-in one a `name`. `log` is the id of an output."""

    plan_id: str
    active: bool
    image: tuple[str, str] | None = None
    name: str | None = None
    inputs: list[Hole] = field(default_factory=list)
    outputs: list[Hole] = field(default_factory=list)
    log: int | None = None
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    on_node: list[tuple[str, str, str]] = field(default_factory=list)
    resources: dict[str, str] = field(default_factory=dict)
    annotations: list[tuple[str, str]] = field(default_factory=list)
    service_account: str | None = None


@dataclass(slots=True)
class KnitfabRun:
    """A Run; `inputs` maps the ids of inputs to Data."""

    run_id: str
    plan_id: str
    status: RunStatus
    updated_at: datetime
    exit: tuple[int, str] | None = None
    inputs: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class KnitfabData:
    """A Data; `volume` is the name of its claim."""

    knit_id: str
    volume: str
    run_id: str
    output_id: int
    timestamp: datetime | None = None
    tag_ids: set[int] = field(default_factory=set)


@dataclass
class Records:
    """A database. `pending`: Data that have yet to be combined with others.

    `not_carried`: the rows of tables that mean nothing elsewhere; `unknown`: tables that no Knitfab
    has.
    """

    version: int
    tags: dict[int, Tag] = field(default_factory=dict)
    plans: dict[str, KnitfabPlan] = field(default_factory=dict)
    runs: dict[str, KnitfabRun] = field(default_factory=dict)
    data: dict[str, KnitfabData] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    not_carried: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def read_records(dump: Dump) -> Records:
    """Reads a database; raises Damaged if it is none of a Knitfab, or contradicts itself."""
    return _Reading(dump).run()


class _Reading:
    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._records = Records(self._version())
        self._holes: dict[int, Hole] = {}
        self._outputs: dict[int, Hole] = {}

    def run(self) -> Records:
        try:
            self._tags()
            self._plans()
            self._parts_of_plans()
            self._holes_of_plans()
            self._runs()
            self._data()
            self._rest()
        except (ValueError, OverflowError) as cause:
            raise self._dump.damaged(str(cause)) from cause
        except KeyError as cause:
            raise self._dump.damaged(f"a row refers to {cause}, which is not there") from cause
        return self._records

    def _version(self) -> int:
        missing = [one for one in _NEEDED if one not in self._dump.tables]
        if missing:
            raise self._dump.damaged(
                f"it is no database of Knitfab: there is no table {missing[0]}"
            )
        # The first releases had the table without any use of it, so it may be empty or missing.
        versions = [int(one) for (one,) in self._rows("schema_version", "version")]
        version = max(versions, default=1)
        if not 1 <= version <= NEWEST:
            raise self._dump.damaged(
                f"its schema has version {version}; known are 1 to {NEWEST} (Knitfab v1.0 to v1.6)"
            )
        return version

    # --- rows -----------------------------------------------------------------------------------

    def _rows(self, table: str, *columns: str) -> list[tuple[str, ...]]:
        """Gives rows whose columns all have values."""
        return [self._whole(table, row) for row in self._dump.rows(table, columns)]

    def _whole(self, table: str, row: Fields) -> tuple[str, ...]:
        values = tuple(one for one in row if one is not None)
        if len(values) < len(row):
            raise ValueError(f"a row of {table} lacks a value")
        return values

    # --- tables ---------------------------------------------------------------------------------

    def _tags(self) -> None:
        keys = {int(key_id): key for key_id, key in self._rows("tag_key", "id", "key")}
        for tag_id, key_id, value in self._rows("tag", "id", "key_id", "value"):
            self._records.tags[int(tag_id)] = Tag(keys[int(key_id)], value)

    def _plans(self) -> None:
        plans = self._records.plans
        for text, active in self._rows("plan", "plan_id", "active"):
            plan_id = _id(text)
            plans[plan_id] = KnitfabPlan(plan_id, active == "t")
        for text, image, version in self._rows("plan_image", "plan_id", "image", "version"):
            plans[_id(text)].image = (image, version)
        for text, name in self._rows("plan_pseudo", "plan_id", "name"):
            plans[_id(text)].name = name
        for plan in plans.values():
            if (plan.image is None) == (plan.name is None):
                raise ValueError(f"the Plan {plan.plan_id} has no image and no name, or both")

    def _parts_of_plans(self) -> None:
        plans = self._records.plans
        for text, kind, amount in self._rows("plan_resource", "plan_id", "type", "value"):
            plans[_id(text)].resources[kind] = amount
        for text, mode, key, value in self._rows("plan_on_node", "plan_id", "mode", "key", "value"):
            plans[_id(text)].on_node.append((mode, key, value))
        for text, key, value in self._rows("plan_annotation", "plan_id", "key", "value"):
            plans[_id(text)].annotations.append((key, value))
        for text, name in self._rows("plan_service_account", "plan_id", "service_account"):
            plans[_id(text)].service_account = name
        for text, words in self._rows("plan_entrypoint", "plan_id", "entrypoint"):
            plans[_id(text)].entrypoint = read_array(words)
        for text, words in self._rows("plan_args", "plan_id", "args"):
            plans[_id(text)].args = read_array(words)

    def _holes_of_plans(self) -> None:
        plans = self._records.plans
        for number, text, path in self._rows("input", "input_id", "plan_id", "path"):
            hole = self._holes[int(number)] = Hole(int(number), path)
            plans[_id(text)].inputs.append(hole)
        for number, text, path in self._rows("output", "output_id", "plan_id", "path"):
            hole = self._outputs[int(number)] = Hole(int(number), path)
            plans[_id(text)].outputs.append(hole)
        for text, number in self._rows("log", "plan_id", "output_id"):
            plans[_id(text)].log = int(number)
        for tag_id, number in self._rows("tag_input", "tag_id", "input_id"):
            self._holes[int(number)].tag_ids.add(self._tag(tag_id))
        for tag_id, number in self._rows("tag_output", "tag_id", "output_id"):
            self._outputs[int(number)].tag_ids.add(self._tag(tag_id))
        for number, knit_id in self._rows("knitid_input", "input_id", "knit_id"):
            self._holes[int(number)].knit_id = knit_id
        for number, instant in self._rows("timestamp_input", "input_id", "timestamp"):
            self._holes[int(number)].timestamp = _instant(instant)

    def _runs(self) -> None:
        runs = self._records.runs
        columns = ("run_id", "plan_id", "status", "updated_at")
        for text, plan_text, status, updated_at in self._rows("run", *columns):
            run_id, plan_id = _id(text), self._records.plans[_id(plan_text)].plan_id
            runs[run_id] = KnitfabRun(run_id, plan_id, RunStatus(status), _instant(updated_at))
        for row in self._dump.rows("run_exit", ("run_id", "exit_code", "message")):
            text, code = self._whole("run_exit", row[:2])
            runs[_id(text)].exit = (int(code), row[2] or "")
        for text, number, knit_id in self._rows("assign", "run_id", "input_id", "knit_id"):
            runs[_id(text)].inputs[self._holes[int(number)].id] = _id(knit_id)

    def _data(self) -> None:
        data = self._records.data
        columns = ("knit_id", "volume_ref", "run_id", "output_id")
        for text, volume, run_text, number in self._rows("data", *columns):
            knit_id, run_id = _id(text), self._records.runs[_id(run_text)].run_id
            output_id = self._outputs[int(number)].id
            data[knit_id] = KnitfabData(knit_id, volume, run_id, output_id)
        for row in self._dump.rows("knit_timestamp", ("knit_id", "timestamp")):
            if row[0] is not None and row[1] is not None and (one := data.get(_id(row[0]))):
                one.timestamp = _instant(row[1])
        for tag_id, text in self._rows("tag_data", "tag_id", "knit_id"):
            if one := data.get(_id(text)):
                one.tag_ids.add(self._tag(tag_id))
        for run in self._records.runs.values():
            for knit_id in run.inputs.values():
                if knit_id not in data:
                    raise ValueError(f"the Run {run.run_id} has the Data {knit_id} as an input, "
                                     "which is not there")  # fmt: skip

    def _rest(self) -> None:
        records = self._records
        for text, updated in self._rows("nomination", "knit_id", "updated"):
            if updated == "t" and _id(text) in records.data:
                records.pending.add(_id(text))
        for table in ("garbage", "keychain", "data_agent", "user"):
            if table in self._dump.tables and (count := sum(1 for _ in self._dump.lines(table))):
                records.not_carried[table] = count
        records.unknown = tuple(sorted(self._dump.tables.keys() - _KNOWN))

    def _tag(self, text: str) -> int:
        tag_id = int(text)
        if tag_id not in self._records.tags:
            raise KeyError(f"tag {tag_id}")
        return tag_id


def _id(text: str) -> str:
    found = parse_id(text)
    if found is None:
        raise ValueError(f"{text[:60]!r} is not an id")
    return found


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return instant


def tags_of(records: Records, tag_ids: Sequence[int] | set[int]) -> frozenset[Tag]:
    """Gives the tags of these ids."""
    return frozenset(records.tags[tag_id] for tag_id in tag_ids)
