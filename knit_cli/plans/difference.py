"""Compares a Plan file with the Plan the API has: the same work, and if so, what still differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from shlex import quote

from knit_cli.tag_flags import TIMESTAMP
from knit_workflows.wire.plans import Mountpoint, MountpointSpec, OnNode, OnNodeSpec, Plan, PlanSpec
from knit_workflows.wire.tags import Tag
from knit_workflows.wire.times import parse_time

DEFAULT_RESOURCES = {"cpu": "1", "memory": "1Gi"}
"""What the server fills in at registration."""

_QUANTITY = re.compile(r"([+-]?[0-9.]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")
_SUFFIXES = {
    **{unit: Decimal(10) ** power for unit, power in zip("num", (-9, -6, -3), strict=True)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


@dataclass(frozen=True)
class Difference:
    """One thing that can be changed later and differs: in words, and the command to change it."""

    words: str
    command: str


def same_work(spec: PlanSpec, plan: Plan) -> bool:
    """Tells whether the file describes this very Plan: all that makes up its identity is equal."""
    return (
        _with_version(spec.image) == plan.image
        and list(spec.entrypoint) == plan.entrypoint
        and list(spec.args) == plan.args
        and _mountpoints(spec.inputs) == _mountpoints(plan.inputs)
        and _mountpoints(spec.outputs) == _mountpoints(plan.outputs)
        and _log_tags(spec) == _log_tags(plan)
        and _placement(spec.on_node) == _placement(plan.on_node)
    )


def differences(spec: PlanSpec, plan: Plan) -> list[Difference]:
    """Gives what differs between the file and an equal Plan, in the order active to priority."""
    return [
        *_active(spec, plan),
        *_resources(spec, plan),
        *_service_account(spec, plan),
        *_annotations(spec, plan),
        *_priority(spec, plan),
    ]


def _with_version(image: str) -> str:
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _mountpoints(
    mountpoints: Sequence[MountpointSpec] | Sequence[Mountpoint],
) -> dict[str, frozenset[object]]:
    return {one.path.removesuffix("/"): _tags(one.tags) for one in mountpoints}


def _tags(tags: Iterable[Tag]) -> frozenset[object]:
    return frozenset(_comparable(tag) for tag in tags)


def _comparable(tag: Tag) -> object:
    if tag.key == TIMESTAMP:
        try:
            return (tag.key, parse_time(tag.value))  # the same instant in another zone is the same
        except ValueError:
            pass
    return (tag.key, tag.value)


def _log_tags(plan: PlanSpec | Plan) -> frozenset[object] | None:
    return None if plan.log is None else _tags(plan.log.tags)


def _placement(on_node: OnNodeSpec | OnNode | None) -> tuple[frozenset[str], ...]:
    if on_node is None:
        return (frozenset(),) * 3
    modes = (on_node.may, on_node.prefer, on_node.must)
    return tuple(frozenset(_pair(entry) for entry in mode) for mode in modes)


def _pair(entry: str) -> str:
    key, _, value = entry.partition("=")
    return f"{key.strip()}={value.strip()}"


def _active(spec: PlanSpec, plan: Plan) -> list[Difference]:
    if spec.active == plan.active:
        return []
    mode = "yes" if spec.active else "no"
    words = f"active is {str(plan.active).lower()}, the file says {str(spec.active).lower()}"
    return [Difference(words, f"knit plan active {mode} {plan.plan_id}")]


def _resources(spec: PlanSpec, plan: Plan) -> list[Difference]:
    wanted = {**DEFAULT_RESOURCES, **spec.resources}
    found = []
    for name in sorted({*wanted, *plan.resources}):
        has, wants = plan.resources.get(name), wanted.get(name)
        if wants is None:
            words = f"resources.{name} is {has}, the file has none"
            change = f"--unset {quote(name)}"
        elif has is None or _amount(has) != _amount(wants):
            words = f"resources.{name} is {has or 'not set'}, the file says {wants}"
            change = f"--set {quote(f'{name}={wants}')}"
        else:
            continue
        found.append(Difference(words, f"knit plan resource {change} {plan.plan_id}"))
    return found


def _service_account(spec: PlanSpec, plan: Plan) -> list[Difference]:
    wants, has = spec.service_account or None, plan.service_account or None
    if wants == has:
        return []
    words = f"service_account is {has or 'not set'}, the file says {wants or 'none'}"
    change = f"--set {quote(wants)}" if wants else "--unset"
    return [Difference(words, f"knit plan serviceaccount {change} {plan.plan_id}")]


def _annotations(spec: PlanSpec, plan: Plan) -> list[Difference]:
    wanted = {_pair(entry) for entry in spec.annotations}
    there = {_pair(entry) for entry in plan.annotations}
    found = [
        Difference(
            f"the annotation {entry} is only in the file",
            f"knit plan annotate --add {quote(entry)} {plan.plan_id}",
        )
        for entry in sorted(wanted - there)
    ]
    found += [
        Difference(
            f"the annotation {entry} is not in the file",
            f"knit plan annotate --remove {quote(entry)} {plan.plan_id}",
        )
        for entry in sorted(there - wanted)
    ]
    return found


def _priority(spec: PlanSpec, plan: Plan) -> list[Difference]:
    if spec.priority == plan.priority:
        return []
    words = f"priority is {plan.priority}, the file says {spec.priority}"
    return [Difference(words, f"knit plan priority {plan.plan_id} {spec.priority}")]


def _amount(quantity: str) -> Decimal | str:
    """Gives the amount, so that 1000m equals 1; the text itself where it is no quantity."""
    match = _QUANTITY.fullmatch(quantity.strip())
    if match is None:
        return quantity
    suffix = match[2] or ""
    try:
        if suffix in _SUFFIXES:
            return Decimal(match[1]) * _SUFFIXES[suffix]
        return Decimal(match[1] + suffix)
    except InvalidOperation:
        return quantity
