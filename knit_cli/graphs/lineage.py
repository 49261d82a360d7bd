"""Part of a lineage, as the API gives it."""

from __future__ import annotations

from dataclasses import dataclass

from knit_workflows.wire.data import Data
from knit_workflows.wire.runs import Run

LOG = "(log)"
"""Stands for a path where an edge or a mountpoint is about the log."""


@dataclass(frozen=True)
class Edge:
    """A Data that went into a Run, or came out of it; the label is the path, or LOG."""

    run_id: str
    knit_id: str
    label: str
    into_run: bool


@dataclass(frozen=True)
class Lineage:
    """Data and Runs by id, nearest first; `start` is the Data the user asked about."""

    start: str
    data: dict[str, Data]
    runs: dict[str, Run]

    @property
    def edges(self) -> list[Edge]:
        """The edges whose two ends are present, Run by Run: inputs, outputs, log."""
        found = [edge for run in self.runs.values() for edge in edges_of(run)]
        return [edge for edge in found if edge.knit_id in self.data]


def edges_of(run: Run) -> list[Edge]:
    """Gives all edges of a Run: inputs, outputs, log. Data that were deleted have none."""
    edges = [Edge(run.run_id, one.knit_id, one.path, into_run=True) for one in run.inputs]
    edges += [Edge(run.run_id, one.knit_id, one.path, into_run=False) for one in run.outputs]
    if run.log is not None:
        edges.append(Edge(run.run_id, run.log.knit_id, LOG, into_run=False))
    return [edge for edge in edges if edge.knit_id]
