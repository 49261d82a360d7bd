"""Lineage: which Data came from which, through which Runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from knit_workflows.domain.data import DataDetail
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs import RunDetail


@dataclass(frozen=True, slots=True)
class Lineage:
    """A part of the graph of Data and Runs, each once, nearest first.

    A step downstream adds every Run (deleted ones excepted) that used a Data, with all its inputs,
    outputs and its log; a step upstream adds the Run that made it, likewise. Only what lies in the
    asked direction is followed: side inputs and outputs are there, but not what is behind them.
    """

    data: tuple[DataDetail, ...]
    runs: tuple[RunDetail, ...]


class Edge(NamedTuple):
    """A Data at an input (`into_run`) or output of a Run; `path` is None at its log."""

    run_id: RunId
    knit_id: KnitId
    path: str | None
    into_run: bool


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """The same part of the graph as ids alone, nearest first; `edges` go Run by Run, by path."""

    data: tuple[KnitId, ...]
    runs: tuple[RunId, ...]
    edges: tuple[Edge, ...]
