"""Writes a graph in Mermaid's language, which Markdown pages can embed."""

from __future__ import annotations

from collections.abc import Mapping

from knit_cli.graphs.model import COLOURS, INDENT, Graph, Line, Node, NodeKind, one_line

_SHAPES: Mapping[NodeKind, tuple[str, str]] = {
    NodeKind.DATA: ('["', '"]'),
    NodeKind.RUN: ('("', '")'),
    NodeKind.PLAN: ('("', '")'),
    NodeKind.POINT: ('(("', '"))'),
    NodeKind.ROOT: ('{"', '"}'),
}
# Markup to Mermaid, or to the HTML it produces.
_SPECIAL = frozenset("#&<>\"'`;\\|{}[]()*_~@")


def to_mermaid(graph: Graph) -> str:
    """Gives a flowchart without a final newline.

    Nodes are named by short numbers: Mermaid does not accept every character of our ids.
    """
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for number, (frame, nodes) in enumerate(graph.framed()):
        drawn = [f"{INDENT}{_node(names[node.id], node)}" for node in nodes]
        if frame:
            inside = [f"{INDENT}{line}" for line in drawn]
            drawn = [f'{INDENT}subgraph f{number}[" "]', *inside, f"{INDENT}end"]
        lines += drawn
    for edge in graph.complete_edges():
        label = f'|"{_text(edge.label)}"|' if edge.label else ""
        lines.append(f"{INDENT}{names[edge.source]} -->{label} {names[edge.target]}")
    used = {node.kind for node in graph.nodes}
    lines += [
        f"{INDENT}classDef {kind} stroke:{COLOURS[kind]},stroke-width:2px"
        for kind in NodeKind
        if kind in used
    ]
    highlighted = [names[node.id] for node in graph.nodes if node.highlighted]
    lines += [f"{INDENT}style {name} stroke-width:5px" for name in highlighted]
    return "\n".join(lines)


def _node(name: str, node: Node) -> str:
    opening, closing = _SHAPES[node.kind]
    return f"{name}{opening}{_label(node)}{closing}:::{node.kind}"


def _label(node: Node) -> str:
    if node.kind in (NodeKind.POINT, NodeKind.ROOT):
        return " "
    title = f"{node.kind.title()} {_plain(node.title)}"
    lines = [title, *(_plain(line) for row in node.rows for line in row.lines)]
    return "<br/>".join(map(_text, lines))


def _plain(line: Line) -> str:
    return "".join(span.text for span in line)


def _text(text: str) -> str:
    """Escapes text so that nothing in it is markup."""
    shown = one_line(text)
    return "".join(f"#{ord(char)};" if char in _SPECIAL else char for char in shown)
