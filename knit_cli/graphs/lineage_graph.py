"""Makes a lineage a graph that can be drawn: how a Data and a Run look in every picture."""

from __future__ import annotations

from knit_cli.graphs import formats
from knit_cli.graphs.formats import Graph, Kind, Node, Row, Words
from knit_cli.graphs.labels import plan_label, state_labels, user_tags
from knit_cli.graphs.lineage import Edge, Lineage
from knit_workflows.wire.data import Data
from knit_workflows.wire.runs import Run
from knit_workflows.wire.tags import Tag
from knit_workflows.wire.times import format_time

_STATUS_COLOURS = {
    "deactivated": "gray",
    "completing": "#007700",
    "done": "#007700",
    "aborting": "red",
    "failed": "red",
}


def to_graph(lineage: Lineage) -> Graph:
    """Gives Data, Runs, and a root before every Run without inputs; the start is highlighted."""
    roots = [run for run in lineage.runs.values() if not run.inputs]
    nodes = [_data_node(one, one.knit_id == lineage.start) for one in lineage.data.values()]
    nodes += map(_run_node, lineage.runs.values())
    nodes += [Node(f"root#{number}", Kind.ROOT) for number in range(len(roots))]
    edges = [
        formats.Edge(f"root#{number}", _run_id(run.run_id)) for number, run in enumerate(roots)
    ]
    edges += map(_edge, lineage.edges)
    return Graph(lineage.start, (Kind.DATA, Kind.RUN), tuple(nodes), tuple(edges))


def _data_node(data: Data, is_start: bool) -> Node:
    rows = []
    if state := state_labels(data):
        rows.append(Row(((Words(" | ".join(state)),),), small=True))
    if tags := user_tags(data):
        rows.append(Row(tuple(map(_tag_line, tags))))
    return Node(
        _data_id(data.knit_id),
        Kind.DATA,
        key=data.knit_id,
        title=(Words(f"knit#id: {data.knit_id}"),),
        rows=tuple(rows),
        highlighted=is_start,
        value=data,
    )


def _tag_line(tag: Tag) -> tuple[Words, ...]:
    return Words(tag.key, bold=True), Words(f":{tag.value}")


def _run_node(run: Run) -> Node:
    status = Words(run.status, bold=True, colour=_STATUS_COLOURS.get(run.status))
    updated = format_time(run.updated_at.astimezone())
    return Node(
        _run_id(run.run_id),
        Kind.RUN,
        key=run.run_id,
        title=(status, Words(f" {run.run_id}")),
        rows=(
            Row(((Words(f"last updated: {updated}"),),), small=True),
            Row(((Words(plan_label(run.plan)),),)),
        ),
        value=run,
    )


def _edge(edge: Edge) -> formats.Edge:
    ends = _data_id(edge.knit_id), _run_id(edge.run_id)
    source, target = ends if edge.into_run else reversed(ends)
    return formats.Edge(source, target, edge.label)


def _data_id(knit_id: str) -> str:
    return f"d{knit_id}"


def _run_id(run_id: str) -> str:
    return f"r{run_id}"
