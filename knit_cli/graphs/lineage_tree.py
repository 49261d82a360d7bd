"""Draws a lineage as trees on a terminal: what a Data came from, and what came from it."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from knit_cli.graphs.labels import plan_label, state_labels, user_tags
from knit_cli.graphs.lineage import Edge, Lineage, edges_of
from knit_cli.graphs.text_tree import TreeNode, draw
from knit_workflows.wire.data import Data
from knit_workflows.wire.runs import Run

_STATUS_STYLES = {
    "done": "green",
    "completing": "green",
    "failed": "red",
    "aborting": "red",
    "deactivated": "dim",
}
_FILE_COLUMNS = 400  # in a file, lines need no wrapping


def print_tree(lineage: Lineage, *, upstream: bool, downstream: bool) -> int:
    """Prints the directions asked for to stdout, wrapped to the terminal's width.

    A node met again is named but not expanded again. Returns how many Runs lie beyond the
    distance asked for.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    both, farther = upstream and downstream, 0
    for asked, direction in (
        (upstream, _Direction(lineage, up=True)),
        (downstream, _Direction(lineage, up=False)),
    ):
        if asked:
            if both:
                console.print(direction.title)
            draw(direction.tree(), console)
            farther += len(direction.farther)
    return farther


class _Direction:
    """One direction of a lineage; `farther` collects the ids of more distant Runs."""

    def __init__(self, lineage: Lineage, *, up: bool) -> None:
        self.title = "came from" if up else "went into"
        self.farther: set[str] = set()
        self._lineage = lineage
        self._up = up
        self._shown: set[str] = set()
        self._runs_beyond: dict[str, list[str]] = {}
        for edge in lineage.edges:
            if edge.into_run is not up:
                self._runs_beyond.setdefault(edge.knit_id, []).append(edge.run_id)

    def tree(self) -> TreeNode:
        """Builds the tree from the Data asked for, depth first.

        Without recursion: a chain may have thousands of Runs.
        """
        above = TreeNode(Text())
        pending: list[tuple[TreeNode, Edge | None, str]] = [(above, None, self._lineage.start)]
        while pending:
            parent, edge, knit_id = pending.pop()
            if edge is None or edge.into_run is self._up:
                label = edge.label if edge else ""
                pending += reversed(self._data(parent, self._lineage.data[knit_id], label))
            else:
                parent.add(_side_text(self._lineage.data[knit_id], edge))
        return above.below[0]

    def _data(
        self, parent: TreeNode, data: Data, label: str
    ) -> list[tuple[TreeNode, Edge | None, str]]:
        """Adds a Data and the Runs beyond it; gives the edges behind those, to be added next."""
        runs = list(dict.fromkeys(self._runs_beyond.get(data.knit_id, [])))
        repeated = data.knit_id in self._shown and bool(runs)
        self._shown.add(data.knit_id)
        text = _data_text(data, label, data.knit_id == self._lineage.start, repeated)
        if farther := self._beyond(data):
            text.append(f" … {len(farther)} more Run{'s' * (len(farther) > 1)}", style="dim")
        node = parent.add(text)
        behind: list[tuple[TreeNode, Edge | None, str]] = []
        for run_id in [] if repeated else runs:
            run = self._lineage.runs[run_id]
            run_node = node.add(_run_text(run, run_id in self._shown))
            if run_id in self._shown:
                continue
            self._shown.add(run_id)
            behind += [
                (run_node, edge, edge.knit_id)
                for edge in self._side_edges_first(edges_of(run))
                if edge.knit_id in self._lineage.data and edge.knit_id != data.knit_id
            ]
        return behind

    def _side_edges_first(self, edges: list[Edge]) -> list[Edge]:
        return sorted(edges, key=lambda edge: edge.into_run is self._up)

    def _beyond(self, data: Data) -> set[str]:
        """Gives the adjacent Runs in this direction that are not in the lineage."""
        beside = {data.upstream.run.run_id} if self._up else _users(data)
        missing = beside - self._lineage.runs.keys()
        self.farther |= missing
        return missing


def _users(data: Data) -> set[str]:
    return {use.run.run_id for use in data.downstreams}


def _data_text(data: Data, label: str, is_start: bool, repeated: bool) -> Text:
    text = Text()
    if label:
        text.append(f"{label} ", style="cyan")
    text.append("Data ", style="bold green")
    text.append(data.knit_id, style="bold reverse" if is_start else "bold")
    for tag in user_tags(data):
        text.append(f" {tag}", style="yellow")
    for state in state_labels(data):
        text.append(f" {state}", style="dim")
    if repeated:
        text.append(" (shown above)", style="dim")
    return text


def _run_text(run: Run, repeated: bool) -> Text:
    text = Text()
    text.append("Run ", style="bold dark_orange")
    text.append(f"{run.run_id} ")
    text.append(run.status, style=_STATUS_STYLES.get(run.status, ""))
    text.append(f" {plan_label(run.plan)}", style="dim")
    if repeated:
        text.append(" (shown above)", style="dim")
    return text


def _side_text(data: Data, edge: Edge) -> Text:
    side = "also used" if edge.into_run else "also made"
    text = Text(f"{side} ", style="dim")
    text.append_text(_data_text(data, edge.label, is_start=False, repeated=False))
    return text
