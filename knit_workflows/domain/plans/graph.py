"""How Plans relate: when two are the same, which feeds which, and whether one would feed itself.

A Plan U feeds a Plan D when the tags of some output (or log) of U hold all tags that some input of
D asks for. Only declared tags count; inputs that pin an id or an instant take part in no relation.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.instants import epoch_millis
from knit_workflows.domain.plans.model import PlanSpec, Requirement
from knit_workflows.domain.tags import Tag


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A Plan in the graph: what its inputs ask for, and the tags of each output (its log too)."""

    inputs: tuple[Requirement, ...]
    outputs: tuple[frozenset[Tag], ...]


def node_of(spec: PlanSpec) -> PlanNode:
    """Returns a Plan's place in the graph."""
    outputs = [output.tags for output in spec.outputs]
    if spec.log is not None:
        outputs.append(spec.log)
    return PlanNode(tuple(one.requirement for one in spec.inputs), tuple(outputs))


def identity_hash(spec: PlanSpec) -> str:
    """Returns the SHA-256 (64 hex digits) of all that makes a Plan this Plan and no other.

    Equal hashes mean equivalent Plans. Image, inputs, outputs, log, on_node, entrypoint and args
    count; the last two in their order, everything else as sets. Resources, active, service account
    and annotations do not count. Stored in databases: the encoding must never change.
    """
    image = [spec.image.repository, spec.image.image_tag]
    parts = [
        ["image", *image, *([spec.image.digest] if spec.image.digest else [])],
        ["on_node", sorted({(rule.mode.value, rule.key, rule.value) for rule in spec.on_node})],
        ["inputs", sorted([one.path, *_requirement(one.requirement)] for one in spec.inputs)],
        ["outputs", sorted([one.path, _pairs(one.tags)] for one in spec.outputs)],
        ["log", None if spec.log is None else _pairs(spec.log)],
        ["entrypoint", spec.entrypoint],
        ["args", spec.args],
    ]
    # JSON arrays tell ["a", "b"] from ["a,b"], and are pure ASCII with the escapes of json.dumps.
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def _pairs(tags: Iterable[Tag]) -> list[list[str]]:
    return [[tag.key, tag.value] for tag in sorted(tags)]


def _requirement(requirement: Requirement) -> list[object]:
    instant = requirement.timestamp
    millis = None if instant is None else epoch_millis(instant)
    return [_pairs(requirement.tags), requirement.knit_id or "", millis]


def feeds(output_tags: frozenset[Tag], requirement: Requirement) -> bool:
    """Says whether an output with these declared tags is upstream of an input."""
    return (
        not requirement.has_system_tag
        and bool(requirement.tags)
        and requirement.tags <= output_tags
    )


def find_cycle(new: PlanNode, others: Mapping[PlanId, PlanNode]) -> tuple[PlanId, ...] | None:
    """Returns the shortest way on which a new Plan would feed itself, or None.

    The result names the other Plans on the way, downstream from the new one. It is empty (and not
    None) when the new Plan feeds itself at once. Only cycles through the new Plan are looked for.
    """
    downstream = _Downstream(new, others)
    came_from: dict[PlanId, PlanId | None] = {}
    queue: deque[tuple[PlanId | None, PlanNode]] = deque([(None, new)])
    while queue:
        here, node = queue.popleft()
        for plan_id in downstream.take(node.outputs):
            if plan_id is None:
                return _way_to(here, came_from)
            came_from[plan_id] = here
            queue.append((plan_id, others[plan_id]))
    return None


def _way_to(last: PlanId | None, came_from: Mapping[PlanId, PlanId | None]) -> tuple[PlanId, ...]:
    way = []
    while last is not None:
        way.append(last)
        last = came_from[last]
    return tuple(reversed(way))


class _Downstream:
    """An index from output tags to the Plans they feed, each given out once; None is the new one.

    Every input is filed under the one of its tags that the fewest inputs share: tags such as
    `project:demo` are on all of them and would make each look-up a scan.
    """

    def __init__(self, new: PlanNode, others: Mapping[PlanId, PlanNode]) -> None:
        owners: list[tuple[PlanId | None, PlanNode]] = [(None, new), *others.items()]
        inputs = {
            (owner, one.tags)
            for owner, node in owners
            for one in node.inputs
            if one.tags and not one.has_system_tag
        }
        shared = Counter(tag for _, tags in inputs for tag in tags)
        self._by_tag: dict[Tag, dict[frozenset[Tag], list[PlanId | None]]] = defaultdict(dict)
        for owner, tags in inputs:
            rarest = min(tags, key=lambda tag: (shared[tag], tag))
            self._by_tag[rarest].setdefault(tags, []).append(owner)
        self._given: set[PlanId | None] = set()

    def take(self, outputs: Iterable[frozenset[Tag]]) -> list[PlanId | None]:
        """Returns the Plans these outputs feed and were not returned before, the new one first.

        Inputs with equal tags share one entry, which is dropped once its Plans are given out.
        """
        found: set[PlanId | None] = set()
        for tags in outputs:
            for tag in tags:
                entries = self._by_tag.get(tag, {})
                for wanted in [wanted for wanted in entries if wanted <= tags]:
                    found.update(entries.pop(wanted))
        found -= self._given
        self._given |= found
        return sorted(found, key=lambda plan_id: (plan_id is not None, plan_id or ""))
