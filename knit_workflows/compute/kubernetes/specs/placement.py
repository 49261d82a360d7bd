"""A Plan's `on_node` rules as tolerations and node affinity.

Tolerations follow any mode. `must` rules are one term: keys are and-ed, the values of one key are
or-ed. `prefer` rules are one term of weight 1 each.
"""

from __future__ import annotations

from collections.abc import Sequence

from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.domain.plans.model import NodeMode, NodeRule


def placement(rules: Sequence[NodeRule]) -> JsonObject:
    """Gives the part of a pod's spec that the rules ask for; empty if there are none."""
    spec: JsonObject = {}
    if tolerations := _tolerations(rules):
        spec["tolerations"] = tolerations
    affinity: JsonObject = {}
    if required := _required(rules):
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = required
    if preferred := _preferred(rules):
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    if affinity:
        spec["affinity"] = {"nodeAffinity": affinity}
    return spec


def _tolerations(rules: Sequence[NodeRule]) -> list[JsonObject]:
    wanted: dict[tuple[str, str, str], None] = {}
    for rule in rules:
        wanted[rule.key, rule.value, "NoSchedule"] = None
        if rule.mode is not NodeMode.MAY:
            wanted[rule.key, rule.value, "PreferNoSchedule"] = None
    return [
        {"key": key, "operator": "Equal", "value": value, "effect": effect}
        for key, value, effect in wanted
    ]


def _required(rules: Sequence[NodeRule]) -> JsonObject | None:
    values: dict[str, dict[str, None]] = {}
    for rule in rules:
        if rule.mode is NodeMode.MUST:
            values.setdefault(rule.key, {})[rule.value] = None
    if not values:
        return None
    return {"nodeSelectorTerms": [{"matchExpressions": [_is_in(k, *v) for k, v in values.items()]}]}


def _preferred(rules: Sequence[NodeRule]) -> list[JsonObject]:
    wanted = dict.fromkeys((r.key, r.value) for r in rules if r.mode is NodeMode.PREFER)
    return [
        {"weight": 1, "preference": {"matchExpressions": [_is_in(key, value)]}}
        for key, value in wanted
    ]


def _is_in(key: str, *values: str) -> JsonObject:
    return {"key": key, "operator": "In", "values": list(values)}
