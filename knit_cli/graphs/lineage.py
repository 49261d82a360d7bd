"""Walks from one Data to what it came from and what came from it, one Run at a time.

The graph knows nothing of the API: it is given two functions that fetch, whole levels at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from knit_workflows.wire.data import Data
from knit_workflows.wire.runs import Run

FetchData = Callable[[list[str]], Mapping[str, Data]]
"""Gives the Data that exist among these ids."""
FetchRuns = Callable[[list[str]], Mapping[str, Run]]
"""Gives the Runs that exist among these ids."""


@dataclass(frozen=True)
class Edge:
    """A Data that went into a Run, or came out of it; the label is the path, or `(log)`."""

    run_id: str
    knit_id: str
    label: str
    into_run: bool


@dataclass
class Lineage:
    """Data and Runs by id, in the order they were reached; `start` is the Data asked for."""

    start: str
    data: dict[str, Data] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def edges(self) -> list[Edge]:
        """The edges whose two ends are in the graph, Run by Run: inputs, outputs, log."""
        found = [edge for run in self.runs.values() for edge in edges_of(run)]
        return [edge for edge in found if edge.knit_id in self.data]


def edges_of(run: Run) -> list[Edge]:
    """Gives all edges of a Run: inputs, outputs, log. Data that were deleted have none."""
    edges = [Edge(run.run_id, one.knit_id, one.path, into_run=True) for one in run.inputs]
    edges += [Edge(run.run_id, one.knit_id, one.path, into_run=False) for one in run.outputs]
    if run.log is not None:
        edges.append(Edge(run.run_id, run.log.knit_id, "(log)", into_run=False))
    return [edge for edge in edges if edge.knit_id]


def walk(
    start: Data,
    *,
    upstream: int | None,
    downstream: int | None,
    fetch_data: FetchData,
    fetch_runs: FetchRuns,
) -> Lineage:
    """Gives the lineage of a Data, so many Runs far each way; None is without end, 0 not at all.

    A Run that is reached comes with all its inputs, outputs and log, but only those in the
    direction of the walk are followed further. Things that vanish meanwhile are left out.
    """
    lineage = Lineage(start.knit_id, {start.knit_id: start})
    walker = _Walker(lineage, fetch_data, fetch_runs)
    walker.go(start, upstream, _makers, into_run=True)
    walker.go(start, downstream, _users, into_run=False)
    return lineage


def _makers(data: Data) -> list[str]:
    return [data.upstream.run.run_id]


def _users(data: Data) -> list[str]:
    return [use.run.run_id for use in data.downstreams]


class _Walker:
    """Adds to one lineage, level by level, asking for each thing once."""

    def __init__(self, lineage: Lineage, fetch_data: FetchData, fetch_runs: FetchRuns) -> None:
        self._lineage = lineage
        self._fetch_data = fetch_data
        self._fetch_runs = fetch_runs

    def go(
        self,
        start: Data,
        hops: int | None,
        runs_of: Callable[[Data], list[str]],
        *,
        into_run: bool,
    ) -> None:
        """Follows runs from Data with `runs_of`, and Data from Runs through edges `into_run`."""
        frontier = [start]
        followed = {start.knit_id}
        while frontier and (hops is None or hops > 0):
            runs = self._runs(_distinct(run for data in frontier for run in runs_of(data)))
            edges = [edge for run in runs for edge in edges_of(run)]
            known = self._data(_distinct(edge.knit_id for edge in edges))
            ahead = _distinct(edge.knit_id for edge in edges if edge.into_run is into_run)
            frontier = [known[one] for one in ahead if one in known and one not in followed]
            followed.update(data.knit_id for data in frontier)
            hops = None if hops is None else hops - 1

    def _runs(self, ids: list[str]) -> list[Run]:
        runs = self._lineage.runs
        missing = [one for one in ids if one not in runs]
        fetched = self._fetch_runs(missing) if missing else {}
        runs.update({one: fetched[one] for one in missing if one in fetched})
        return [runs[one] for one in ids if one in runs]

    def _data(self, ids: list[str]) -> dict[str, Data]:
        data = self._lineage.data
        missing = [one for one in ids if one not in data]
        fetched = self._fetch_data(missing) if missing else {}
        data.update({one: fetched[one] for one in missing if one in fetched})
        return data


def _distinct(ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(ids))
