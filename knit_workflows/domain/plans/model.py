"""Plans as values: their content, and how other objects refer to them.

The rules a Plan must keep are in `plan_rules`, its identity and the graph of Plans in `plan_graph`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.plans.options import NO_OPTIONS, PlanOptions
from knit_workflows.domain.tags import Tag

UPLOADED: Final = "knit#uploaded"
"""Name of the built-in Plan whose Runs are uploads; its one output is at `/upload`."""
IMPORTED: Final = "knit#imported"
"""Name of the built-in Plan whose Runs are imports; its one output is at `/imported`."""
LOG_PATH: Final = "/log"
"""Path under which a Plan's log is kept among its outputs."""


@dataclass(frozen=True, slots=True, order=True)
class Annotation:
    """A `key=value` note on a Plan; no influence on matching, identity or execution."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class NodeMode(StrEnum):
    """How strongly a Plan prefers nodes with a label."""

    MAY = "may"
    PREFER = "prefer"
    MUST = "must"


@dataclass(frozen=True, slots=True, order=True)
class NodeRule:
    """One `on_node` entry."""

    mode: NodeMode
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Image:
    """A container image by name: `repository` may hold a host.

    Tag and digest (`sha256:…`) are as the user gave them; one of them may be empty, never both.
    """

    repository: str
    image_tag: str
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.image_tag}" if self.image_tag or not self.digest else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an input requires of a Data: user tags, and optionally an id and an instant."""

    tags: frozenset[Tag]
    knit_id: str | None = None
    timestamp: datetime | None = None

    @property
    def has_system_tag(self) -> bool:
        """Whether it pins an id or an instant; such inputs never relate Plans to each other."""
        return self.knit_id is not None or self.timestamp is not None


@dataclass(frozen=True, slots=True)
class PlanInput:
    """An input of a Plan: a mountpoint for Data."""

    path: str
    requirement: Requirement


@dataclass(frozen=True, slots=True)
class PlanOutput:
    """An output of a Plan: Runs leave Data there, which gets these user tags."""

    path: str
    tags: frozenset[Tag]


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """One kind of computation, checked against the rules of `plans.rules`.

    Inputs (one or more) and outputs (none or more) are sorted by path; `log` is None when no log
    is kept; `resources` maps a resource name to a canonical Kubernetes quantity and always holds
    `cpu` and `memory`.
    """

    image: Image
    inputs: tuple[PlanInput, ...]
    outputs: tuple[PlanOutput, ...] = ()
    log: frozenset[Tag] | None = None
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    on_node: tuple[NodeRule, ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)
    service_account: str | None = None
    annotations: tuple[Annotation, ...] = ()
    active: bool = True
    priority: int = 0
    options: PlanOptions = NO_OPTIONS


@dataclass(frozen=True, slots=True)
class Mountpoint:
    """A mountpoint of a Plan, with the tags that the Plan gives it, sorted."""

    path: str
    tags: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What other objects show of a Plan: its `image`, or the `name` of a built-in one."""

    plan_id: PlanId
    image: Image | None
    name: str | None
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanLink:
    """A neighbour in the graph of Plans, and its mountpoint (path None: its log)."""

    plan: PlanSummary
    path: str | None
    tags: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class LinkedMountpoint:
    """A mountpoint with its neighbours in the graph."""

    mountpoint: Mountpoint
    links: tuple[PlanLink, ...]


@dataclass(frozen=True, slots=True)
class PlanDetail:
    """A Plan with its neighbours; mountpoints in path order."""

    summary: PlanSummary
    inputs: tuple[LinkedMountpoint, ...]
    outputs: tuple[LinkedMountpoint, ...]
    log: LinkedMountpoint | None
    active: bool
    on_node: tuple[NodeRule, ...]
    resources: Mapping[str, str]
    service_account: str | None
    priority: int = 0
    options: PlanOptions = NO_OPTIONS


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """What registering a Plan would do immediately.

    `candidates` says how many Data fill each input, by path in path order; `runs` how many Runs
    there would be, and `assignments` gives the first of them (path → Data), by id.
    """

    runs: int
    candidates: Mapping[str, int]
    assignments: tuple[Mapping[str, KnitId], ...]


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """A change of the requested resources: names to canonical quantities; set beats unset."""

    set: Mapping[str, str] = field(default_factory=dict)
    unset: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AnnotationChange:
    """A change of a Plan's annotations: removals first, then additions."""

    add: frozenset[Annotation] = frozenset()
    remove: frozenset[Annotation] = frozenset()
    remove_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PlanQuery:
    """The filter of `plan find`; None matches any."""

    plan_ids: frozenset[str] | None = None
    active: bool | None = None
    repository: str | None = None
    image_tag: str | None = None
    image_digest: str | None = None
    input_tags: tuple[Tag, ...] = ()
    output_tags: tuple[Tag, ...] = ()
