"""Data: one immutable volume with tags, produced by exactly one Run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.plans.model import Mountpoint, PlanSummary
from knit_workflows.domain.runs import RunSummary
from knit_workflows.domain.tags import Tag


@dataclass(frozen=True, slots=True)
class Upstream:
    """The Run that made a Data, and at which output; `path` is None for the Run's log."""

    path: str | None
    tags: tuple[Tag, ...]
    run: RunSummary


@dataclass(frozen=True, slots=True)
class Downstream:
    """A Run that uses a Data, and at which input."""

    mountpoint: Mountpoint
    run: RunSummary


@dataclass(frozen=True, slots=True)
class Nomination:
    """An input of a Plan that a Data satisfies at present."""

    mountpoint: Mountpoint
    plan: PlanSummary


@dataclass(frozen=True, slots=True)
class DataDetail:
    """A Data with its tags (system tags included; by key, then value) and its neighbours."""

    knit_id: KnitId
    tags: tuple[Tag, ...]
    upstream: Upstream
    downstreams: tuple[Downstream, ...]
    nominations: tuple[Nomination, ...]


@dataclass(frozen=True, slots=True)
class DataQuery:
    """The filter of `data find`: all of these tags (system tags allowed), within a time window."""

    tags: tuple[Tag, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TagChange:
    """A change of a Data's user tags: removals first, then additions."""

    add: frozenset[Tag] = frozenset()
    remove: frozenset[Tag] = frozenset()
    remove_keys: frozenset[str] = frozenset()
