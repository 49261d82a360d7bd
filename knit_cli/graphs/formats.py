"""The formats in which `data lineage` and `plan graph` can show a graph."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from knit_cli.graphs.dot import to_dot
from knit_cli.graphs.json_graph import to_json
from knit_cli.graphs.mermaid import to_mermaid
from knit_cli.graphs.model import Graph
from knit_cli.output import print_bytes, print_json, print_text


class GraphFormat(StrEnum):
    """How a graph is shown."""

    DOT = "dot"
    TREE = "tree"
    JSON = "json"
    MERMAID = "mermaid"

    @classmethod
    def chosen(cls, option: GraphFormat | None) -> GraphFormat:
        """Gives the format asked for, else a tree on a terminal and dot anywhere else."""
        return option or (cls.TREE if sys.stdout.isatty() else cls.DOT)


Format = Annotated[
    GraphFormat | None,
    typer.Option("--format", help="Output format (default: tree on a terminal, else dot)."),
]


def print_graph(graph: Graph, form: GraphFormat) -> None:
    """Prints the graph to stdout, in any format but TREE."""
    match form:
        case GraphFormat.MERMAID:
            print_text(to_mermaid(graph))
        case GraphFormat.JSON:
            print_json(to_json(graph))
        case _:
            # The contract has no line end here.
            print_bytes([to_dot(graph).encode("utf-8", errors="replace")])
