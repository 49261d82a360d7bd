"""Draws a lineage as trees on a terminal: where a Data came from, and what came from it."""

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
_FILE_COLUMNS = 400  # a line of a file need not be wrapped


def print_tree(lineage: Lineage, *, upstream: bool, downstream: bool) -> int:
    """Prints the directions asked for to stdout, on a terminal as wide as that is.

    What was shown already is named again but not unfolded again. Gives how many Runs were not
    shown because they are farther away than was asked for.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    both, farther = upstream and downstream, 0
    for asked, way in ((upstream, _Way(lineage, up=True)), (downstream, _Way(lineage, up=False))):
        if asked:
            if both:
                console.print(way.title)
            draw(way.grown(), console)
            farther += len(way.farther)
    return farther


class _Way:
    """One direction of one lineage; `farther` are the Runs it does not have."""

    def __init__(self, lineage: Lineage, *, up: bool) -> None:
        self.title = "came from" if up else "went into"
        self.farther: set[str] = set()
        self._lineage = lineage
        self._up = up
        self._shown: set[str] = set()
        self._ahead: dict[str, list[str]] = {}
        for edge in lineage.edges:
            if edge.into_run is not up:
                self._ahead.setdefault(edge.knit_id, []).append(edge.run_id)

    def grown(self) -> TreeNode:
        """Gives the tree that starts at the Data asked for, depth first.

        The work is kept in a list, not in calls: a chain of a thousand Runs is no reason to fail.
        """
        above = TreeNode(Text())
        waiting: list[tuple[TreeNode, Edge | None, str]] = [(above, None, self._lineage.start)]
        while waiting:
            parent, edge, knit_id = waiting.pop()
            if edge is None or edge.into_run is self._up:
                label = edge.label if edge else ""
                waiting += reversed(self._data(parent, self._lineage.data[knit_id], label))
            else:
                parent.add(_side_words(self._lineage.data[knit_id], edge))
        return above.below[0]

    def _data(
        self, parent: TreeNode, data: Data, label: str
    ) -> list[tuple[TreeNode, Edge | None, str]]:
        """Adds a Data and the Runs on its far side; gives what is behind those, to be added."""
        runs = list(dict.fromkeys(self._ahead.get(data.knit_id, [])))
        again = data.knit_id in self._shown and bool(runs)
        self._shown.add(data.knit_id)
        words = _data_words(data, label, data.knit_id == self._lineage.start, again)
        if farther := self._not_here(data):
            words.append(f" … {len(farther)} more Run{'s' * (len(farther) > 1)}", style="dim")
        branch = parent.add(words)
        behind: list[tuple[TreeNode, Edge | None, str]] = []
        for run_id in [] if again else runs:
            run = self._lineage.runs[run_id]
            twig = branch.add(_run_words(run, run_id in self._shown))
            if run_id in self._shown:
                continue
            self._shown.add(run_id)
            behind += [
                (twig, edge, edge.knit_id)
                for edge in self._asides_first(edges_of(run))
                if edge.knit_id in self._lineage.data and edge.knit_id != data.knit_id
            ]
        return behind

    def _asides_first(self, edges: list[Edge]) -> list[Edge]:
        return sorted(edges, key=lambda edge: edge.into_run is self._up)

    def _not_here(self, data: Data) -> set[str]:
        """Gives the Runs next to a Data, on its far side, that were not asked for."""
        beside = {data.upstream.run.run_id} if self._up else _users(data)
        missing = beside - self._lineage.runs.keys()
        self.farther |= missing
        return missing


def _users(data: Data) -> set[str]:
    return {use.run.run_id for use in data.downstreams}


def _data_words(data: Data, label: str, is_start: bool, again: bool) -> Text:
    words = Text()
    if label:
        words.append(f"{label} ", style="cyan")
    words.append("Data ", style="bold green")
    words.append(data.knit_id, style="bold reverse" if is_start else "bold")
    for tag in user_tags(data):
        words.append(f" {tag}", style="yellow")
    for state in state_labels(data):
        words.append(f" {state}", style="dim")
    if again:
        words.append(" (shown above)", style="dim")
    return words


def _run_words(run: Run, again: bool) -> Text:
    words = Text()
    words.append("Run ", style="bold dark_orange")
    words.append(f"{run.run_id} ")
    words.append(run.status, style=_STATUS_STYLES.get(run.status, ""))
    words.append(f" {plan_label(run.plan)}", style="dim")
    if again:
        words.append(" (shown above)", style="dim")
    return words


def _side_words(data: Data, edge: Edge) -> Text:
    side = "also used" if edge.into_run else "also made"
    words = Text(f"{side} ", style="dim")
    words.append_text(_data_words(data, edge.label, is_start=False, again=False))
    return words
