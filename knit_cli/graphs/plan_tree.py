"""Draws Plans as trees on a terminal: what feeds one, and what it feeds."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from knit_cli.graphs.labels import plan_label
from knit_cli.graphs.plan_graph import Link, Plans
from knit_cli.graphs.text_tree import TreeNode, draw
from knit_workflows.wire.plans import Plan

_FILE_COLUMNS = 400  # in a file, lines need no wrapping


def print_tree(found: Plans, *, upstream: bool, downstream: bool) -> None:
    """Prints the directions asked for to stdout, wrapped to the terminal's width.

    A Plan met again is named but not expanded again.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    if upstream:
        draw(_tree(found, "is fed by", up=True), console)
    if downstream or not upstream:
        draw(_tree(found, "feeds", up=False), console)


def _tree(found: Plans, title: str, *, up: bool) -> TreeNode:
    """Builds the tree from the Plan asked for, depth first; without recursion, for long chains."""
    links: dict[str, list[Link]] = {}
    for link in found.links:
        links.setdefault(link.consumer if up else link.producer, []).append(link)
    root = TreeNode(_plan_text(found.plans[found.start], is_start=True).append(f" {title}", "dim"))
    shown = {found.start}
    pending = [(root, link) for link in reversed(links.get(found.start, []))]
    while pending:
        parent, link = pending.pop()
        plan = found.plans[link.producer if up else link.consumer]
        again = plan.plan_id in shown
        shown.add(plan.plan_id)
        further = links.get(plan.plan_id, [])
        text = _link_text(link).append_text(_plan_text(plan))
        node = parent.add(text.append(" (shown above)", "dim") if again and further else text)
        pending += [] if again else [(node, one) for one in reversed(further)]
    return root


def _link_text(link: Link) -> Text:
    return Text(f"{link.output} → {link.input} ", style="cyan")


def _plan_text(plan: Plan, *, is_start: bool = False) -> Text:
    text = Text()
    text.append("Plan ", style="bold dark_goldenrod")
    text.append(plan.plan_id, style="bold reverse" if is_start else "bold")
    if not plan.active:
        text.append(" inactive", style="dim")
    text.append(f" {plan_label(plan)}", style="dim")
    return text
