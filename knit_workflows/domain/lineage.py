"""Lineage: which Data came from which, through which Runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from knit_workflows.domain.data import DataDetail
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs.run import RunDetail


@dataclass(frozen=True, slots=True)
class Lineage:
    """A part of the graph of Data and Runs, each once, nearest first.

    A step downstream adds every Run (except deleted ones) that used a Data, with all its inputs,
    outputs and its log; a step upstream adds the Run that made it, likewise. Only the requested
    direction is followed: side inputs and outputs are included, but not what lies behind them.
    """

    data: tuple[DataDetail, ...]
    runs: tuple[RunDetail, ...]
    left_out: int = 0
    """How many Data and Runs are not shown to this caller."""


class Edge(NamedTuple):
    """A Data at an input (`into_run`) or an output of a Run; `path` is None for its log."""

    run_id: RunId
    knit_id: KnitId
    path: str | None
    into_run: bool


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """The same part of the graph as ids alone, nearest first; `edges` by Run, then by path."""

    data: tuple[KnitId, ...]
    runs: tuple[RunId, ...]
    edges: tuple[Edge, ...]
    left_out: int = 0
