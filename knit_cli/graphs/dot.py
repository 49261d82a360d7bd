"""Writes a graph in Graphviz's language, dot."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from knit_cli.graphs.model import (
    COLOURS,
    INDENT,
    Edge,
    Graph,
    Line,
    Node,
    NodeKind,
    Row,
    Span,
    one_line,
)

_HIGHLIGHTS: Mapping[NodeKind, str] = {NodeKind.DATA: "#d4ecc6", NodeKind.PLAN: "#EDD9B4"}


def to_dot(graph: Graph) -> str:
    """Gives a digraph without a final newline: nodes first, frame by frame, then edges."""
    lines = ["digraph G {", f"{INDENT}node [shape=record fontsize=10]"]
    lines += [f"{INDENT}edge [fontsize=10]", ""]
    for frame, nodes in graph.framed():
        drawn = [f"{INDENT}{_node(node)}" for node in nodes]
        lines += _frame(drawn) if frame else drawn
    lines.append("")
    lines += [f"{INDENT}{_edge(edge)}" for edge in graph.complete_edges()]
    return "\n".join([*lines, "}"])


def _frame(nodes: list[str]) -> list[str]:
    style = f'cluster=true penwidth=0.3 color="{COLOURS[NodeKind.PLAN]}"'
    inside = [f"{INDENT}{line}" for line in nodes]
    return [f"{INDENT}subgraph {{", f"{INDENT * 2}graph [{style}]", *inside, f"{INDENT}}}"]


def _node(node: Node) -> str:
    name, colour = _text(node.id), COLOURS[node.kind]
    if node.kind is NodeKind.POINT:
        return f'{name} [shape=point color="{colour}"];'
    if node.kind is NodeKind.ROOT:
        return f"{name} [shape=Mdiamond];"
    background = f' BGCOLOR="{_HIGHLIGHTS.get(node.kind, colour)}"' if node.highlighted else ""
    rows = [
        f'<TR><TD BGCOLOR="{colour}"><FONT COLOR="white"><B>{node.kind.title()}</B></FONT></TD>'
        f"<TD{background}>{_line(node.title)}</TD></TR>",
        *map(_row, node.rows),
    ]
    table = (
        f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" COLOR="{colour}">{"".join(rows)}</TABLE>'
    )
    return f'{name} [shape=none color="{colour}" label=<{table}>];'


def _row(row: Row) -> str:
    content = "<BR/>".join(map(_line, row.lines))
    if row.small:
        content = f'<FONT POINT-SIZE="8">{content}</FONT>'
    return f'<TR><TD COLSPAN="2" ALIGN="LEFT">{content}</TD></TR>'


def _line(line: Line) -> str:
    return "".join(map(_span, line))


def _span(span: Span) -> str:
    text = escape(one_line(span.text))
    if span.colour and text:
        text = f'<FONT COLOR="{span.colour}">{text}</FONT>'
    # Graphviz rejects an empty element.
    return f"<B>{text}</B>" if span.bold and text else text


def _edge(edge: Edge) -> str:
    style = [f"label={_text(edge.label)}"] if edge.label else []
    if edge.inner:
        style += ["weight=10", "penwidth=0.3"]
    attributes = f" [{' '.join(style)}]" if style else ""
    return f"{_text(edge.source)} -> {_text(edge.target)}{attributes};"


def _text(text: str) -> str:
    quoted = one_line(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
