"""`knit plan graph`: asks the API for the Plans around one, and draws them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.commands.choices import read_hops
from knit_cli.commands.plan_change import PlanId
from knit_cli.graphs.formats import GraphFormat, to_dot, to_json, to_mermaid
from knit_cli.graphs.plan_graph import Plans, to_graph, walk
from knit_cli.graphs.plan_tree import print_tree
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, print_text
from knit_cli.session import api_of
from knit_workflows.wire.plans import Plan

_AT_ONCE = 8  # requests; the graph is fetched level by level


def graph_plans(
    context: typer.Context,
    plan_id: PlanId,
    upstream: Annotated[
        bool | None, typer.Option("--upstream/--no-upstream", "-u", help="Show what feeds it.")
    ] = None,
    downstream: Annotated[
        bool | None, typer.Option("--downstream/--no-downstream", "-d", help="Show what it feeds.")
    ] = None,
    numbers: Annotated[
        str, typer.Option("--numbers", "-n", metavar="N|all", help="How many Plans far.")
    ] = "3",
    output: Annotated[
        GraphFormat | None,
        typer.Option("--format", help="How to show it (default: tree on a terminal, else dot)."),
    ] = None,
) -> None:
    """Shows which Plans feed a Plan and which it feeds; without -u and -d, both."""
    hops = read_hops(numbers)
    if upstream is None and downstream is None:
        upstream = downstream = True
    with api_of(invocation_of(context)) as api, ThreadPoolExecutor(_AT_ONCE) as threads:
        found = walk(
            api.get_plan(plan_id),
            upstream=hops if upstream else 0,
            downstream=hops if downstream else 0,
            fetch=lambda ids: _fetched(api, threads, ids),
        )
    _draw(found, output, upstream=bool(upstream), downstream=bool(downstream))


def _fetched(api: ApiClient, threads: ThreadPoolExecutor, ids: list[str]) -> Mapping[str, Plan]:
    # Plans are never deleted: each of them is there.
    return dict(zip(ids, threads.map(api.get_plan, ids), strict=True))


def _draw(found: Plans, output: GraphFormat | None, *, upstream: bool, downstream: bool) -> None:
    match output or (GraphFormat.TREE if sys.stdout.isatty() else GraphFormat.DOT):
        case GraphFormat.TREE:
            print_tree(found, upstream=upstream, downstream=downstream)
        case GraphFormat.DOT:
            # The contract has no line end here.
            print_bytes([to_dot(to_graph(found)).encode("utf-8", errors="replace")])
        case GraphFormat.MERMAID:
            print_text(to_mermaid(to_graph(found)))
        case GraphFormat.JSON:
            print_json(to_json(to_graph(found)))
