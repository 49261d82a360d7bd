"""`knit data lineage`: asks the API for a part of the graph, and draws it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import typer

from knit_cli.api.client import ApiClient
from knit_cli.commands.choices import read_hops
from knit_cli.errors import ApiRefused, CliError
from knit_cli.graphs.formats import GraphFormat, to_dot, to_json, to_mermaid
from knit_cli.graphs.lineage import Lineage, walk
from knit_cli.graphs.lineage_graph import to_graph
from knit_cli.graphs.lineage_tree import print_tree
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, print_text, say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_data
from knit_workflows.wire.runs import Run

T = TypeVar("T")

_AT_ONCE = 8  # requests; where the API gives no graph, it is fetched level by level
_NOT_FOUND = 404


def lineage(
    context: typer.Context,
    knit_id: Annotated[str, typer.Argument(metavar="KNIT_ID", autocompletion=complete_data)],
    upstream: Annotated[
        bool, typer.Option("--upstream", "-u", help="Show what it came from.")
    ] = False,
    downstream: Annotated[
        bool, typer.Option("--downstream", "-d", help="Show what came from it.")
    ] = False,
    numbers: Annotated[
        str, typer.Option("--numbers", "-n", metavar="N|all", help="How many Runs far.")
    ] = "3",
    output: Annotated[
        GraphFormat | None,
        typer.Option("--format", help="How to show it (default: tree on a terminal, else dot)."),
    ] = None,
) -> None:
    """Shows where a Data came from and what came from it; without -u and -d, both."""
    hops = read_hops(numbers)
    both = upstream == downstream
    asked = {"upstream": upstream or both, "downstream": downstream or both}
    with api_of(invocation_of(context)) as api:
        found = _found(api, knit_id, {way: hops for way, wanted in asked.items() if wanted})
    match output or (GraphFormat.TREE if sys.stdout.isatty() else GraphFormat.DOT):
        case GraphFormat.TREE:
            farther = print_tree(found, upstream=asked["upstream"], downstream=asked["downstream"])
            if farther:
                say(f"Runs farther away that are not shown: {farther}; --numbers all shows all")
        case GraphFormat.DOT:
            # The contract has no line end here.
            print_bytes([to_dot(to_graph(found)).encode("utf-8", errors="replace")])
        case GraphFormat.MERMAID:
            print_text(to_mermaid(to_graph(found)))
        case GraphFormat.JSON:
            print_json(to_json(to_graph(found)))


def _found(api: ApiClient, knit_id: str, hops: Mapping[str, int | None]) -> Lineage:
    """Gives the graph in one answer, or from an older API step by step."""
    answer = api.lineage(knit_id, hops)
    if answer is None:
        return _walked(api, knit_id, hops)
    return Lineage(
        knit_id,
        {data.knit_id: data for data in answer.data},
        {run.run_id: run for run in answer.runs},
    )


def _walked(api: ApiClient, knit_id: str, hops: Mapping[str, int | None]) -> Lineage:
    start = api.get_data(knit_id)
    if start is None:
        raise CliError(
            f"cannot trace {knit_id}",
            reason="there is no such Data",
            advice="look for it with `knit data find`",
        )
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return walk(
            start,
            upstream=hops.get("upstream", 0),
            downstream=hops.get("downstream", 0),
            fetch_data=lambda ids: _each(threads, api.get_data, ids),
            fetch_runs=lambda ids: _each(threads, lambda one: _run(api, one), ids),
        )


def _run(api: ApiClient, run_id: str) -> Run | None:
    try:
        return api.get_run(run_id)
    except ApiRefused as refused:
        if refused.status == _NOT_FOUND:  # deleted since its Data was read
            return None
        raise


def _each(
    threads: ThreadPoolExecutor, fetch: Callable[[str], T | None], ids: list[str]
) -> Mapping[str, T]:
    found = zip(ids, threads.map(fetch, ids), strict=True)
    return {one: value for one, value in found if value is not None}
