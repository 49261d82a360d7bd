"""A graph of Data, Runs or Plans, ready to be written in any format.

```
lineage ─┐               ┌─ dot.to_dot
         ├─► Graph ──────┼─ mermaid.to_mermaid
Plans ───┘               └─ json_graph.to_json
```
Nodes and edges keep the order in which they are written. Writers look at nothing but the graph and
do all escaping. They skip an edge unless both its ends are present, so that part of a larger
graph can be drawn without pruning it first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

INDENT = "    "


class NodeKind(StrEnum):
    """What a node stands for: ROOT has no inputs, POINT is a mountpoint of a Plan."""

    DATA = "data"
    RUN = "run"
    PLAN = "plan"
    POINT = "point"
    ROOT = "root"


COLOURS: Mapping[NodeKind, str] = {
    NodeKind.DATA: "#1c9930",
    NodeKind.RUN: "#FFA500",
    NodeKind.PLAN: "#DAA520",
    NodeKind.POINT: "#1c9930",
    NodeKind.ROOT: "#000000",
}
"""Borders and headings, in CSS notation."""


@dataclass(frozen=True)
class Span:
    """Text in one style; `colour` is a name or a CSS value, which Graphviz understands too."""

    text: str
    bold: bool = False
    colour: str | None = None


Line = tuple[Span, ...]


@dataclass(frozen=True)
class Row:
    """The lines of one cell of a node."""

    lines: tuple[Line, ...]
    small: bool = False


@dataclass(frozen=True)
class Node:
    """One node.

    Args:
        id: unique within its graph.
        kind: what it stands for.
        key: the knit id of the Data, Run or Plan it is or belongs to.
        title: shown beside the name of the kind.
        rows: shown below the title, from top to bottom.
        highlighted: whether it is the one the user asked for.
        frame: nodes with the same frame are drawn inside one box; empty: in none.
        mountpoint: of a POINT, the path of the mountpoint, or `(log)`.
        value: what JSON shows of it; None: nothing.
    """

    id: str
    kind: NodeKind
    key: str = ""
    title: Line = ()
    rows: tuple[Row, ...] = ()
    highlighted: bool = False
    frame: str = ""
    mountpoint: str = ""
    value: BaseModel | None = None


@dataclass(frozen=True)
class Edge:
    """An arrow from one node to another; an `inner` one joins a Plan and its own mountpoint."""

    source: str
    target: str
    label: str = ""
    inner: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes and edges in writing order; `kinds` are those that JSON lists."""

    start: str
    kinds: tuple[NodeKind, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def complete_edges(self) -> list[Edge]:
        """Gives the edges whose two ends are present."""
        ids = {node.id for node in self.nodes}
        return [edge for edge in self.edges if edge.source in ids and edge.target in ids]

    def framed(self) -> list[tuple[str, list[Node]]]:
        """Groups nodes by frame, in order of first appearance; each frameless node stands alone."""
        frames: dict[tuple[str, str], list[Node]] = defaultdict(list)
        for node in self.nodes:
            frames[node.frame, "" if node.frame else node.id].append(node)
        return [(frame, members) for (frame, _), members in frames.items()]


def one_line(text: str) -> str:
    """Replaces control characters, line ends included, by blanks: no format allows them."""
    return "".join(char if char.isprintable() else " " for char in text)
