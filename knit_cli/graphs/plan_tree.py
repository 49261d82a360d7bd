"""Draws Plans as trees on a terminal: what feeds one, and what it feeds."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from knit_cli.graphs.labels import plan_label
from knit_cli.graphs.plan_graph import Link, Plans
from knit_cli.graphs.text_tree import TreeNode, draw
from knit_workflows.wire.plans import Plan

_FILE_COLUMNS = 400  # a line of a file need not be wrapped


def print_tree(found: Plans, *, upstream: bool, downstream: bool) -> None:
    """Prints the directions asked for to stdout, on a terminal as wide as that is.

    What was shown already is named again but not unfolded again.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    if upstream:
        draw(_grown(found, "is fed by", up=True), console)
    if downstream or not upstream:
        draw(_grown(found, "feeds", up=False), console)


def _grown(found: Plans, title: str, *, up: bool) -> TreeNode:
    """Gives the tree that begins at the Plan asked for, depth first.

    The work is kept in a list, not in calls: a long chain is no reason to fail.
    """
    ahead: dict[str, list[Link]] = {}
    for link in found.links:
        ahead.setdefault(link.consumer if up else link.producer, []).append(link)
    root = TreeNode(_words(found.plans[found.start], is_start=True).append(f" {title}", "dim"))
    shown = {found.start}
    waiting = [(root, link) for link in reversed(ahead.get(found.start, []))]
    while waiting:
        parent, link = waiting.pop()
        plan = found.plans[link.producer if up else link.consumer]
        again = plan.plan_id in shown
        shown.add(plan.plan_id)
        further = ahead.get(plan.plan_id, [])
        words = _way(link).append_text(_words(plan))
        branch = parent.add(words.append(" (shown above)", "dim") if again and further else words)
        waiting += [] if again else [(branch, one) for one in reversed(further)]
    return root


def _way(link: Link) -> Text:
    return Text(f"{link.output} → {link.input} ", style="cyan")


def _words(plan: Plan, *, is_start: bool = False) -> Text:
    words = Text()
    words.append("Plan ", style="bold dark_goldenrod")
    words.append(plan.plan_id, style="bold reverse" if is_start else "bold")
    if not plan.active:
        words.append(" inactive", style="dim")
    words.append(f" {plan_label(plan)}", style="dim")
    return words
