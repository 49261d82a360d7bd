"""`knit data lineage`: walks through the API and draws what it finds."""

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from knit_api.schemas.runs import Run
from knit_cli.client import ApiClient
from knit_cli.dot import to_dot
from knit_cli.errors import ApiRefused, BadInput, CliError
from knit_cli.invocation import invocation_of
from knit_cli.lineage import Lineage, walk
from knit_cli.output import print_json, print_text
from knit_cli.session import api_of
from knit_cli.tree import print_tree

T = TypeVar("T")

_AT_ONCE = 8  # requests; the graph is fetched level by level
_NOT_FOUND = 404


class Format(StrEnum):
    """How a lineage is drawn."""

    DOT = "dot"
    TREE = "tree"
    JSON = "json"


def lineage(
    context: typer.Context,
    knit_id: Annotated[str, typer.Argument(metavar="KNIT_ID")],
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
        Format | None,
        typer.Option("--format", help="How to show it (default: tree on a terminal, else dot)."),
    ] = None,
) -> None:
    """Shows where a Data came from and what came from it; without -u and -d, both."""
    hops = _hops(numbers)
    if not upstream and not downstream:
        upstream = downstream = True
    with api_of(invocation_of(context)) as api, ThreadPoolExecutor(_AT_ONCE) as threads:
        start = api.get_data(knit_id)
        if start is None:
            raise CliError(
                f"there is no Data {knit_id}", advice="look for it with `knit data find`"
            )
        found = walk(
            start,
            upstream=hops if upstream else 0,
            downstream=hops if downstream else 0,
            fetch_data=lambda ids: _each(threads, api.get_data, ids),
            fetch_runs=lambda ids: _each(threads, lambda one: _run(api, one), ids),
        )
    _draw(found, output, upstream=upstream, downstream=downstream)


def _hops(text: str) -> int | None:
    if text == "all":
        return None
    try:
        hops = int(text)
    except ValueError as cause:
        raise BadInput(f"--numbers is not a number: {text!r}", advice="write 3, or all") from cause
    if hops < 1:
        raise typer.BadParameter("it must be at least 1, or all", param_hint="--numbers")
    return hops


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


def _draw(found: Lineage, output: Format | None, *, upstream: bool, downstream: bool) -> None:
    match output or (Format.TREE if sys.stdout.isatty() else Format.DOT):
        case Format.DOT:
            print_text(to_dot(found))
        case Format.TREE:
            print_tree(found, upstream=upstream, downstream=downstream)
        case Format.JSON:
            print_json(_as_json(found))


def _as_json(found: Lineage) -> dict[str, Any]:
    """Gives the graph: the Data asked for, all Data and Runs, and what goes from where to where."""
    edges = []
    for edge in found.edges:
        ends = (edge.knit_id, edge.run_id) if edge.into_run else (edge.run_id, edge.knit_id)
        edges.append({"from": ends[0], "to": ends[1], "label": edge.label})
    return {
        "start": found.start,
        "data": list(found.data.values()),
        "runs": list(found.runs.values()),
        "edges": edges,
    }
