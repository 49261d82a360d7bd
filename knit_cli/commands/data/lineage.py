"""`knit data lineage`: asks the API for part of the graph, and draws it."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.commands.choices import read_hops
from knit_cli.graphs.formats import Format, GraphFormat, print_graph
from knit_cli.graphs.lineage import Lineage
from knit_cli.graphs.lineage_graph import to_graph
from knit_cli.graphs.lineage_tree import print_tree
from knit_cli.invocation import invocation_of
from knit_cli.output import say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_data


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
        str, typer.Option("--numbers", "-n", metavar="N|all", help="How many Runs to follow.")
    ] = "3",
    output: Format = None,
) -> None:
    """Show where a Data came from and what came from it; without -u and -d, both."""
    hops = read_hops(numbers)
    both = upstream == downstream
    wanted = {"upstream": upstream or both, "downstream": downstream or both}
    with api_of(invocation_of(context)) as api:
        response = api.lineage(knit_id, {way: hops for way, asked in wanted.items() if asked})
    found = Lineage(
        knit_id,
        {data.knit_id: data for data in response.data},
        {run.run_id: run for run in response.runs},
    )
    chosen = GraphFormat.chosen(output)
    if chosen is not GraphFormat.TREE:
        print_graph(to_graph(found), chosen)
    elif farther := print_tree(found, **wanted):
        say(f"Runs farther away, not shown: {farther}; --numbers all shows everything")
