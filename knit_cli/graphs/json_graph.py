"""Writes a graph as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knit_cli.graphs.model import Edge, Graph, Node, NodeKind
from knit_workflows.wire.base import to_wire

_PLURALS: Mapping[NodeKind, str] = {
    NodeKind.DATA: "data",
    NodeKind.RUN: "runs",
    NodeKind.PLAN: "plans",
}


def to_json(graph: Graph) -> dict[str, Any]:
    """Gives the graph as plain values: its nodes as the API shows them, and its edges.

    ```
    {"start": id, "data" | "runs" | "plans": […], "edges": [{"from": id, "to": id, …}]}
    ```
    An edge has a `label`; between Plans it has the `output` and the `input` it joins instead.
    """
    nodes = {node.id: node for node in graph.nodes}
    found: dict[str, Any] = {"start": graph.start}
    for kind in graph.kinds:
        found[_PLURALS[kind]] = [
            to_wire(node.value) for node in graph.nodes if node.kind is kind and node.value
        ]
    found["edges"] = [
        _json_edge(edge, nodes[edge.source], nodes[edge.target])
        for edge in graph.complete_edges()
        if not edge.inner
        and NodeKind.ROOT not in (nodes[edge.source].kind, nodes[edge.target].kind)
    ]
    return found


def _json_edge(edge: Edge, source: Node, target: Node) -> dict[str, str]:
    ends = {"from": source.key, "to": target.key}
    if source.mountpoint and target.mountpoint:
        return {**ends, "output": source.mountpoint, "input": target.mountpoint}
    return {**ends, "label": edge.label}
