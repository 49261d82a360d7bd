"""Writes graphs of Data, Runs and Plans: Graphviz's dot, Mermaid, JSON.

What is drawn is a `Graph`: nodes in the order they are written, each with a kind (which decides
its look), a title, and rows of words below it; then edges with a label. Whoever has something to
draw (a lineage, a graph of Plans) makes a `Graph` of it and picks a writer:

```
lineage ─┐               ┌─ to_dot(graph)      text, without a final newline
         ├─► Graph ──────┼─ to_mermaid(graph)  text, without a final newline
Plans ───┘               └─ to_json(graph)     plain values for `print_json`
```
Writers look at nothing but the graph. An edge whose ends are not both in the graph is left out, so
that a part of a larger graph can be drawn without pruning it first. All text is escaped here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import Any

from pydantic import BaseModel

from knit_workflows.wire.base import to_wire


class GraphFormat(StrEnum):
    """How a graph is shown; `tree` is written elsewhere, by what is in it."""

    DOT = "dot"
    TREE = "tree"
    JSON = "json"
    MERMAID = "mermaid"


class Kind(StrEnum):
    """What a node stands for. ROOT is where Data come from that nothing made; POINT is a mountpoint
    of a Plan.
    """

    DATA = "data"
    RUN = "run"
    PLAN = "plan"
    POINT = "point"
    ROOT = "root"


@dataclass(frozen=True)
class Words:
    """A piece of text in one look; `colour` as Graphviz and CSS know it."""

    text: str
    bold: bool = False
    colour: str | None = None


Line = tuple[Words, ...]


@dataclass(frozen=True)
class Row:
    """Some lines in one cell of a node."""

    lines: tuple[Line, ...]
    small: bool = False


@dataclass(frozen=True)
class Node:
    """One thing.

    Args:
        id: unique in its graph.
        kind: what it is.
        key: the knit id of the Data, Run or Plan it is, or belongs to.
        title: beside the kind's name.
        rows: below, from top to bottom.
        highlighted: it is the one that was asked for.
        frame: nodes of the same frame are drawn inside one; empty: in none.
        place: of a POINT, the path of the mountpoint, or `(log)`.
        value: what JSON shows of it; None: nothing.
    """

    id: str
    kind: Kind
    key: str = ""
    title: Line = ()
    rows: tuple[Row, ...] = ()
    highlighted: bool = False
    frame: str = ""
    place: str = ""
    value: BaseModel | None = None


@dataclass(frozen=True)
class Edge:
    """An arrow between two nodes; `inner` ones hold a thing and its own parts together."""

    source: str
    target: str
    label: str = ""
    inner: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes and edges in the order they are written; `kinds` are those that JSON lists."""

    start: str
    kinds: tuple[Kind, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def drawn(self) -> list[Edge]:
        """Gives the edges both of whose ends are here."""
        ids = {node.id for node in self.nodes}
        return [edge for edge in self.edges if edge.source in ids and edge.target in ids]


_COLOURS: Mapping[Kind, str] = {
    Kind.DATA: "#1c9930",
    Kind.RUN: "#FFA500",
    Kind.PLAN: "#DAA520",
    Kind.POINT: "#1c9930",
    Kind.ROOT: "#000000",
}
_HIGHLIGHTS: Mapping[Kind, str] = {Kind.DATA: "#d4ecc6", Kind.PLAN: "#EDD9B4"}
_PLURALS: Mapping[Kind, str] = {Kind.DATA: "data", Kind.RUN: "runs", Kind.PLAN: "plans"}
_INDENT = "    "


# ---------------------------------------------------------------- dot


def to_dot(graph: Graph) -> str:
    """Gives a digraph in Graphviz's language: nodes first, frame by frame, then edges."""
    lines = ["digraph G {", f"{_INDENT}node [shape=record fontsize=10]"]
    lines += [f"{_INDENT}edge [fontsize=10]", ""]
    for frame, nodes in _framed(graph.nodes):
        drawn = [f"{_INDENT}{_dot_node(node)}" for node in nodes]
        lines += _dot_frame(drawn) if frame else drawn
    lines.append("")
    lines += [f"{_INDENT}{_dot_edge(edge)}" for edge in graph.drawn()]
    return "\n".join([*lines, "}"])


def _framed(nodes: Iterable[Node]) -> list[tuple[str, list[Node]]]:
    """Gives the nodes frame by frame, in the order of each frame's first; a frameless one alone."""
    frames: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in nodes:
        frames[node.frame, "" if node.frame else node.id].append(node)
    return [(frame, members) for (frame, _), members in frames.items()]


def _dot_frame(nodes: list[str]) -> list[str]:
    look = f'cluster=true penwidth=0.3 color="{_COLOURS[Kind.PLAN]}"'
    inside = [f"{_INDENT}{line}" for line in nodes]
    return [f"{_INDENT}subgraph {{", f"{_INDENT * 2}graph [{look}]", *inside, f"{_INDENT}}}"]


def _dot_node(node: Node) -> str:
    name, colour = _dot_text(node.id), _COLOURS[node.kind]
    if node.kind is Kind.POINT:
        return f'{name} [shape=point color="{colour}"];'
    if node.kind is Kind.ROOT:
        return f"{name} [shape=Mdiamond];"
    background = f' BGCOLOR="{_HIGHLIGHTS.get(node.kind, colour)}"' if node.highlighted else ""
    rows = [
        f'<TR><TD BGCOLOR="{colour}"><FONT COLOR="white"><B>{node.kind.title()}</B></FONT></TD>'
        f"<TD{background}>{_dot_line(node.title)}</TD></TR>",
        *map(_dot_row, node.rows),
    ]
    table = (
        f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" COLOR="{colour}">{"".join(rows)}</TABLE>'
    )
    return f'{name} [shape=none color="{colour}" label=<{table}>];'


def _dot_row(row: Row) -> str:
    content = "<BR/>".join(map(_dot_line, row.lines))
    if row.small:
        content = f'<FONT POINT-SIZE="8">{content}</FONT>'
    return f'<TR><TD COLSPAN="2" ALIGN="LEFT">{content}</TD></TR>'


def _dot_line(line: Line) -> str:
    return "".join(map(_dot_words, line))


def _dot_words(words: Words) -> str:
    text = escape(_visible(words.text))
    if words.colour and text:
        text = f'<FONT COLOR="{words.colour}">{text}</FONT>'
    # Graphviz takes an empty element for a mistake.
    return f"<B>{text}</B>" if words.bold and text else text


def _dot_edge(edge: Edge) -> str:
    look = [f"label={_dot_text(edge.label)}"] if edge.label else []
    if edge.inner:
        look += ["weight=10", "penwidth=0.3"]
    attributes = f" [{' '.join(look)}]" if look else ""
    return f"{_dot_text(edge.source)} -> {_dot_text(edge.target)}{attributes};"


def _dot_text(text: str) -> str:
    quoted = _visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


# ---------------------------------------------------------------- Mermaid

_MERMAID_SHAPES: Mapping[Kind, tuple[str, str]] = {
    Kind.DATA: ('["', '"]'),
    Kind.RUN: ('("', '")'),
    Kind.PLAN: ('("', '")'),
    Kind.POINT: ('(("', '"))'),
    Kind.ROOT: ('{"', '"}'),
}
# What Mermaid, or the HTML it makes, would read as more than text.
_MERMAID_SPECIAL = frozenset("#&<>\"'`;\\|{}[]()*_~@")


def to_mermaid(graph: Graph) -> str:
    """Gives a flowchart in Mermaid's language, as Markdown pages show it.

    Mermaid's own names are short numbers: ids of ours may hold what it does not take.
    """
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for number, (frame, nodes) in enumerate(_framed(graph.nodes)):
        drawn = [f"{_INDENT}{_mermaid_node(names[node.id], node)}" for node in nodes]
        if frame:
            inside = [f"{_INDENT}{line}" for line in drawn]
            drawn = [f'{_INDENT}subgraph f{number}[" "]', *inside, f"{_INDENT}end"]
        lines += drawn
    for edge in graph.drawn():
        label = f'|"{_mermaid_text(edge.label)}"|' if edge.label else ""
        lines.append(f"{_INDENT}{names[edge.source]} -->{label} {names[edge.target]}")
    used = {node.kind for node in graph.nodes}
    lines += [
        f"{_INDENT}classDef {kind} stroke:{_COLOURS[kind]},stroke-width:2px"
        for kind in Kind
        if kind in used
    ]
    asked = [names[node.id] for node in graph.nodes if node.highlighted]
    lines += [f"{_INDENT}style {name} stroke-width:5px" for name in asked]
    return "\n".join(lines)


def _mermaid_node(name: str, node: Node) -> str:
    opening, closing = _MERMAID_SHAPES[node.kind]
    return f"{name}{opening}{_mermaid_label(node)}{closing}:::{node.kind}"


def _mermaid_label(node: Node) -> str:
    if node.kind in (Kind.POINT, Kind.ROOT):
        return " "
    title = f"{node.kind.title()} {_plain(node.title)}"
    lines = [title, *(_plain(line) for row in node.rows for line in row.lines)]
    return "<br/>".join(map(_mermaid_text, lines))


def _plain(line: Line) -> str:
    return "".join(words.text for words in line)


def _mermaid_text(text: str) -> str:
    """Writes text so that it is nothing but text."""
    shown = _visible(text)
    return "".join(f"#{ord(char)};" if char in _MERMAID_SPECIAL else char for char in shown)


def _visible(text: str) -> str:
    """Gives the text in one line; Graphviz's HTML and Mermaid know no control characters."""
    return "".join(char if char.isprintable() else " " for char in text)


# ---------------------------------------------------------------- JSON


def to_json(graph: Graph) -> dict[str, Any]:
    """Gives the graph as plain values: what is in it as the API shows it, and what goes where.

    ```
    {"start": id, "data" | "runs" | "plans": […], "edges": [{"from": id, "to": id, …}]}
    ```
    An edge has a `label`, or between Plans the `output` and the `input` it leads from and to.
    """
    nodes = {node.id: node for node in graph.nodes}
    found: dict[str, Any] = {"start": graph.start}
    for kind in graph.kinds:
        found[_PLURALS[kind]] = [
            to_wire(node.value) for node in graph.nodes if node.kind is kind and node.value
        ]
    found["edges"] = [
        _json_edge(edge, nodes[edge.source], nodes[edge.target])
        for edge in graph.drawn()
        if not edge.inner and Kind.ROOT not in (nodes[edge.source].kind, nodes[edge.target].kind)
    ]
    return found


def _json_edge(edge: Edge, source: Node, target: Node) -> dict[str, str]:
    ends = {"from": source.key, "to": target.key}
    if source.place and target.place:
        return {**ends, "output": source.place, "input": target.place}
    return {**ends, "label": edge.label}
