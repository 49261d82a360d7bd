"""`knit plan graph`: asks the API for the Plans around one, and draws them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.commands.choices import read_hops
from knit_cli.commands.plan.change import PlanId
from knit_cli.graphs.formats import Format, GraphFormat, print_graph
from knit_cli.graphs.plan_graph import to_graph, walk
from knit_cli.graphs.plan_tree import print_tree
from knit_cli.invocation import invocation_of
from knit_cli.session import api_of
from knit_workflows.wire.plans import Plan

_CONCURRENCY = 8  # concurrent requests for one level of the graph


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
        str, typer.Option("--numbers", "-n", metavar="N|all", help="How many Plans to follow.")
    ] = "3",
    output: Format = None,
) -> None:
    """Show which Plans feed a Plan and which it feeds; without -u and -d, both."""
    hops = read_hops(numbers)
    if upstream is None and downstream is None:
        upstream = downstream = True
    with api_of(invocation_of(context)) as api, ThreadPoolExecutor(_CONCURRENCY) as threads:
        found = walk(
            api.get_plan(plan_id),
            upstream=hops if upstream else 0,
            downstream=hops if downstream else 0,
            fetch=lambda ids: _fetched(api, threads, ids),
        )
    chosen = GraphFormat.chosen(output)
    if chosen is GraphFormat.TREE:
        print_tree(found, upstream=bool(upstream), downstream=bool(downstream))
    else:
        print_graph(to_graph(found), chosen)


def _fetched(api: ApiClient, threads: ThreadPoolExecutor, ids: list[str]) -> Mapping[str, Plan]:
    # Plans are never deleted, so each of them exists.
    return dict(zip(ids, threads.map(api.get_plan, ids), strict=True))
