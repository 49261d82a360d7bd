"""Finds the Plans that feed a Plan and those it feeds, and turns them into a graph.

The search does not know the API: it gets a function that fetches a whole level at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from knit_cli.graphs.labels import plan_label
from knit_cli.graphs.lineage import LOG
from knit_cli.graphs.model import Edge, Graph, Line, Node, NodeKind, Row, Span
from knit_workflows.wire.plans import Plan, PlanDownstream

FetchPlans = Callable[[list[str]], Mapping[str, Plan]]
"""Gives the Plans that exist among these ids."""


_ACTIVE = Span("active", bold=True, colour="#007700")
_INACTIVE = Span("inactive", bold=True, colour="gray")


@dataclass(frozen=True)
class Link:
    """An output of one Plan (its path, or LOG) that feeds an input of another."""

    producer: str
    output: str
    consumer: str
    input: str


@dataclass
class Plans:
    """Plans by id, in the order in which they were found; `start` is the one asked for."""

    start: str
    plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def links(self) -> list[Link]:
        """The links whose two ends are present, Plan by Plan: outputs, then the log."""
        found = [link for plan in self.plans.values() for link in _links_of(plan)]
        return [link for link in found if link.consumer in self.plans]


def _links_of(plan: Plan) -> list[Link]:
    ends: list[tuple[str, list[PlanDownstream]]] = [
        (output.path, output.downstreams) for output in plan.outputs
    ]
    if plan.log is not None:
        ends.append((LOG, plan.log.downstreams))
    return [
        Link(plan.plan_id, path, one.plan.plan_id, one.mountpoint.path)
        for path, downstreams in ends
        for one in downstreams
    ]


def walk(start: Plan, *, upstream: int | None, downstream: int | None, fetch: FetchPlans) -> Plans:
    """Finds the Plans at most so many links away in each direction; None: no limit, 0: none.

    Only Plans upstream of upstream Plans, and downstream of downstream ones, are followed.
    """
    found = Plans(start.plan_id, {start.plan_id: start})
    _follow(found, start, upstream, _upstream_of, fetch)
    _follow(found, start, downstream, _downstream_of, fetch)
    return found


def _follow(
    found: Plans,
    start: Plan,
    hops: int | None,
    next_plans: Callable[[Plan], Iterable[str]],
    fetch: FetchPlans,
) -> None:
    frontier, followed = [start], {start.plan_id}
    while frontier and (hops is None or hops > 0):
        ahead = dict.fromkeys(one for plan in frontier for one in next_plans(plan))
        new = [one for one in ahead if one not in followed]
        missing = [one for one in new if one not in found.plans]
        found.plans.update(fetch(missing) if missing else {})
        frontier = [found.plans[one] for one in new if one in found.plans]
        followed.update(new)
        hops = None if hops is None else hops - 1


def _upstream_of(plan: Plan) -> Iterable[str]:
    return (one.plan.plan_id for mountpoint in plan.inputs for one in mountpoint.upstreams)


def _downstream_of(plan: Plan) -> Iterable[str]:
    return (link.consumer for link in _links_of(plan))


def to_graph(found: Plans) -> Graph:
    """Draws each Plan in a frame with a point for every mountpoint; highlights the start."""
    nodes: list[Node] = []
    edges: list[Edge] = []
    for plan in found.plans.values():
        _add(plan, plan.plan_id == found.start, nodes, edges)
    edges += [
        Edge(_point_id(link.producer, link.output), _point_id(link.consumer, link.input))
        for link in found.links
    ]
    return Graph(found.start, (NodeKind.PLAN,), tuple(nodes), tuple(edges))


def _add(plan: Plan, is_start: bool, nodes: list[Node], edges: list[Edge]) -> None:
    """Adds a Plan and its own parts: input → Plan → output."""
    name = f"p{plan.plan_id}"
    inputs = [one.path for one in plan.inputs]
    outputs = [one.path for one in plan.outputs] + ([LOG] if plan.log is not None else [])
    nodes += [_point(plan.plan_id, path) for path in inputs]
    nodes.append(_plan_node(plan, is_start))
    nodes += [_point(plan.plan_id, path) for path in outputs]
    edges += [Edge(_point_id(plan.plan_id, path), name, path, inner=True) for path in inputs]
    edges += [Edge(name, _point_id(plan.plan_id, path), path, inner=True) for path in outputs]


def _plan_node(plan: Plan, is_start: bool) -> Node:
    rows = [Row(((Span(plan_label(plan)),),))]
    if plan.annotations:
        rows.append(Row(tuple(map(_annotation, plan.annotations))))
    state = _ACTIVE if plan.active else _INACTIVE
    return Node(
        f"p{plan.plan_id}",
        NodeKind.PLAN,
        key=plan.plan_id,
        title=(state, Span(f" {plan.plan_id}")),
        rows=tuple(rows),
        highlighted=is_start,
        frame=plan.plan_id,
        value=plan,
    )


def _annotation(text: str) -> Line:
    key, equals, value = text.partition("=")
    return Span(key, bold=True), Span(f"{equals}{value}")


def _point(plan_id: str, path: str) -> Node:
    return Node(
        _point_id(plan_id, path), NodeKind.POINT, key=plan_id, frame=plan_id, mountpoint=path
    )


def _point_id(plan_id: str, path: str) -> str:
    return f"p{plan_id}@{'log' if path == LOG else path}"
