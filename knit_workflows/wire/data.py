"""Data on the wire: one immutable thing with tags, where it came from and what used it."""

from __future__ import annotations

from typing import Literal

from knit_workflows.wire.base import Response, optional
from knit_workflows.wire.plans import LogPoint, Mountpoint, PlanSummary
from knit_workflows.wire.runs import RunSummary
from knit_workflows.wire.tags import Tag, TagChange


class DataUpstream(Response):
    """The Run that made the Data, and through which output (`mountpoint`) or `log`: exactly one."""

    mountpoint: Mountpoint | None = optional()
    log: LogPoint | None = optional()
    run: RunSummary


class DataDownstream(Response):
    """A Run that used the Data, and through which input."""

    mountpoint: Mountpoint
    run: RunSummary


class Nomination(Mountpoint):
    """An input of a Plan for which the Data qualifies now; says nothing about Runs."""

    plan: PlanSummary


class Data(Response):
    """One Data. Tags are sorted by key, then value, system tags (`knit#…`) included.

    `adopted_volume` is there if its volume is others', which knit never changes or deletes.
    """

    knit_id: str
    adopted_volume: str | None = optional()
    tags: list[Tag]
    upstream: DataUpstream
    downstreams: list[DataDownstream]
    nomination: list[Nomination]


class PurgedData(Response):
    """What a purge has done, or in a dry run would do.

    `outcome` is `purged`, or `known` if it was purged before. `volume` is the one that is freed:
    its files go within minutes; `bytes` says how much, in a dry run and if the back-end can tell.
    `kept_volume` is one that stays as it is, because knit has only adopted it.
    """

    outcome: Literal["purged", "known"]
    volume: str | None = optional()
    bytes: int | None = optional()
    kept_volume: str | None = optional()
    data: Data


__all__ = ["Data", "DataDownstream", "DataUpstream", "Nomination", "PurgedData", "Tag", "TagChange"]
