"""Plans as documents again: what `parse_plan` reads, written."""

from __future__ import annotations

from collections.abc import Iterable

from knit_workflows.domain.plans.model import PlanSpec, Requirement
from knit_workflows.domain.tags import KEY_ID, Tag, parse_tag, timestamp_tag


def plan_document(spec: PlanSpec) -> dict[str, object]:
    """Writes the canonical document of a Plan: `parse_plan` of it is the Plan again.

    Only plain JSON values; what is not given (log, args, on_node …) is left out.
    """
    by_mode: dict[str, list[str]] = {}
    for rule in spec.on_node:
        by_mode.setdefault(rule.mode.value, []).append(f"{rule.key}={rule.value}")
    optional: dict[str, object] = {
        "annotations": [str(note) for note in spec.annotations],
        "entrypoint": list(spec.entrypoint),
        "args": list(spec.args),
        "on_node": by_mode,
        "service_account": spec.service_account,
        "priority": spec.priority,
        "log": None if spec.log is None else {"tags": _tag_forms(spec.log)},
    }
    document: dict[str, object] = {
        "image": str(spec.image),
        "inputs": [
            {"path": one.path, "tags": _tag_forms(requirement_tags(one.requirement))}
            for one in spec.inputs
        ],
        "outputs": [{"path": one.path, "tags": _tag_forms(one.tags)} for one in spec.outputs],
        "active": spec.active,
        "resources": dict(spec.resources),
        **{key: value for key, value in optional.items() if value},
    }
    return document


def requirement_tags(requirement: Requirement) -> frozenset[Tag]:
    """Gives an input's tags as a user writes them, system tags among them."""
    system = set()
    if requirement.knit_id is not None:
        system.add(Tag(KEY_ID, requirement.knit_id))
    if requirement.timestamp is not None:
        system.add(timestamp_tag(requirement.timestamp))
    return requirement.tags | system


def _tag_forms(tags: Iterable[Tag]) -> list[object]:
    """Writes tags as text, or as an object where text would be read differently (`a:b` as key)."""
    return [
        str(tag) if parse_tag(str(tag)) == tag else {"key": tag.key, "value": tag.value}
        for tag in sorted(tags)
    ]
