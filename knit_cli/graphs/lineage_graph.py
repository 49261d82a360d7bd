"""Turns a lineage into a graph that can be drawn."""

from __future__ import annotations

from knit_cli.graphs import model
from knit_cli.graphs.labels import plan_label, state_labels, user_tags
from knit_cli.graphs.lineage import Edge, Lineage
from knit_cli.graphs.model import Graph, Node, NodeKind, Row, Span
from knit_workflows.domain.instants import format_instant
from knit_workflows.wire.data import Data
from knit_workflows.wire.runs import Run
from knit_workflows.wire.tags import Tag

_STATUS_COLOURS = {
    "deactivated": "gray",
    "completing": "#007700",
    "done": "#007700",
    "aborting": "red",
    "failed": "red",
}


def to_graph(lineage: Lineage) -> Graph:
    """Gives nodes for Data and Runs, and a root before each Run without inputs."""
    roots = [run for run in lineage.runs.values() if not run.inputs]
    nodes = [_data_node(one, one.knit_id == lineage.start) for one in lineage.data.values()]
    nodes += map(_run_node, lineage.runs.values())
    nodes += [Node(f"root#{number}", NodeKind.ROOT) for number in range(len(roots))]
    edges = [model.Edge(f"root#{number}", _run_id(run.run_id)) for number, run in enumerate(roots)]
    edges += map(_edge, lineage.edges)
    return Graph(lineage.start, (NodeKind.DATA, NodeKind.RUN), tuple(nodes), tuple(edges))


def _data_node(data: Data, is_start: bool) -> Node:
    rows = []
    if state := state_labels(data):
        rows.append(Row(((Span(" | ".join(state)),),), small=True))
    if tags := user_tags(data):
        rows.append(Row(tuple(map(_tag_line, tags))))
    return Node(
        _data_id(data.knit_id),
        NodeKind.DATA,
        key=data.knit_id,
        title=(Span(f"knit#id: {data.knit_id}"),),
        rows=tuple(rows),
        highlighted=is_start,
        value=data,
    )


def _tag_line(tag: Tag) -> tuple[Span, ...]:
    return Span(tag.key, bold=True), Span(f":{tag.value}")


def _run_node(run: Run) -> Node:
    status = Span(run.status, bold=True, colour=_STATUS_COLOURS.get(run.status))
    updated = format_instant(run.updated_at.astimezone())
    return Node(
        _run_id(run.run_id),
        NodeKind.RUN,
        key=run.run_id,
        title=(status, Span(f" {run.run_id}")),
        rows=(
            Row(((Span(f"last updated: {updated}"),),), small=True),
            Row(((Span(plan_label(run.plan)),),)),
        ),
        value=run,
    )


def _edge(edge: Edge) -> model.Edge:
    ends = _data_id(edge.knit_id), _run_id(edge.run_id)
    source, target = ends if edge.into_run else reversed(ends)
    return model.Edge(source, target, edge.label)


def _data_id(knit_id: str) -> str:
    return f"d{knit_id}"


def _run_id(run_id: str) -> str:
    return f"r{run_id}"
