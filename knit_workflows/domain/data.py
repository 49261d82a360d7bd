"""Data: one immutable volume with tags, produced by exactly one Run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from knit_workflows.domain.errors import InvalidRequest, InvalidTag
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.plans.model import Mountpoint, PlanSummary
from knit_workflows.domain.runs.run import RunSummary
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
    """A Data with its tags (system tags included; by key, then value) and its neighbours.

    `adopted_volume` is the volume of others that knit has adopted as this Data, None if it is one
    of knit's own.
    """

    knit_id: KnitId
    tags: tuple[Tag, ...]
    upstream: Upstream
    downstreams: tuple[Downstream, ...]
    nominations: tuple[Nomination, ...]
    adopted_volume: str | None = None


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


@dataclass(frozen=True, slots=True)
class Adoption:
    """A volume of others that is to become Data; `volume` is from `ComputeBackend.adoptable`."""

    volume: str
    tags: frozenset[Tag] = frozenset()


@dataclass(frozen=True, slots=True)
class Adopted:
    """The Data that a volume is now; `is_new` unless it was adopted before."""

    volume: str
    data: DataDetail
    is_new: bool


@dataclass(frozen=True, slots=True)
class Purge:
    """What a purge has done, or would do.

    `volume` is the one whose content goes; None if it stays, because knit has only adopted it, or
    if the Data was purged before (`is_new` False).
    """

    data: DataDetail
    is_new: bool
    volume: str | None


MAX_ADOPTIONS: Final = 1_000
"""How many volumes one request may adopt."""


def check_adoptions(adoptions: Sequence[Adoption]) -> None:
    """Raises InvalidRequest if there are too many, or if a volume or a tag cannot be adopted."""
    if not 0 < len(adoptions) <= MAX_ADOPTIONS:
        raise InvalidRequest(
            f"{len(adoptions):,} volumes are to be adopted",
            advice=f"send 1 to {MAX_ADOPTIONS:,} at once",
        )
    seen: set[str] = set()
    for one in adoptions:
        if one.volume in seen:
            raise InvalidRequest(
                f"the volume {one.volume} is named twice", advice="name each volume once"
            )
        seen.add(one.volume)
        for tag in one.tags:
            if tag.is_system:
                raise InvalidTag(f"the tag {tag} is a system tag", advice="only knit sets knit#…")
