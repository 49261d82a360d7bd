"""Plans of Knitfab as Plans of knit: the same that `knit plan apply` makes of their documents.

So whoever applies such a document again is told of the Plan that was carried over. Where knit
refuses what Knitfab had accepted, the Plan is kept for its Runs, but is not active.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from knit_workflows.backup.knitfab.records import Hole, KnitfabPlan, Records, tags_of
from knit_workflows.domain.errors import InvalidPlan, InvalidQuantity
from knit_workflows.domain.plans.graph import identity_hash
from knit_workflows.domain.plans.model import (
    Annotation,
    Image,
    NodeMode,
    NodeRule,
    PlanInput,
    PlanOutput,
    PlanSpec,
    Requirement,
)
from knit_workflows.domain.plans.resources import parse_resource
from knit_workflows.domain.plans.rules import DEFAULT_RESOURCES, parse_plan
from knit_workflows.domain.tags import KEY_ID, KEY_TIMESTAMP


@dataclass(frozen=True)
class CarriedPlan:
    """A user's Plan as knit has it; inputs and outputs of both are in the same order.

    `notes` say what is not as it was.
    """

    plan_id: str
    spec: PlanSpec
    identity: str
    inputs: tuple[Hole, ...]
    outputs: tuple[Hole, ...]
    """The log is the last one, if there is one."""
    notes: tuple[str, ...] = ()


def carry_plans(records: Records) -> dict[str, CarriedPlan]:
    """Gives all Plans of users by their ids; those that are active go first where two are equal.

    Raises ValueError for a Plan that knit's tables cannot hold.
    """
    carried: dict[str, CarriedPlan] = {}
    first: dict[str, str] = {}
    users = [one for one in records.plans.values() if one.image is not None]
    for plan in sorted(users, key=lambda one: (not one.active, one.plan_id)):
        found = _carried(records, plan)
        same = first.setdefault(found.identity, plan.plan_id)
        if same != plan.plan_id:
            # Not the hash of any document, so that it is never found by one.
            identity = hashlib.sha256(f"carried over: {plan.plan_id}".encode()).hexdigest()
            note = f"it is equal to the Plan {same}, and is not found by applying it again"
            found = replace(found, identity=identity, notes=(*found.notes, note))
        carried[plan.plan_id] = found
    return carried


def _carried(records: Records, plan: KnitfabPlan) -> CarriedPlan:
    log = [one for one in plan.outputs if one.id == plan.log]
    inputs = sorted(plan.inputs, key=lambda one: one.path)
    outputs = sorted((one for one in plan.outputs if one.id != plan.log), key=lambda one: one.path)
    if len({one.path for one in inputs}) < len(inputs):
        raise ValueError(f"the Plan {plan.plan_id} has two inputs at the same path")
    notes = [
        f"it had no limit of {name}, and gets knit's default of {amount}"
        for name, amount in DEFAULT_RESOURCES.items()
        if name not in plan.resources
    ]
    try:
        spec = parse_plan(_document(records, plan, inputs, outputs, log))
    except InvalidPlan as refused:
        spec, dropped = _as_it_is(records, plan, inputs, outputs, log)
        notes += [f"knit refuses such Plans, so it is not active: {refused.reason}", *dropped]
    return CarriedPlan(
        plan.plan_id,
        spec,
        identity_hash(spec),
        tuple(inputs),
        (*outputs, *log),
        tuple(notes),
    )


def _document(
    records: Records, plan: KnitfabPlan, inputs: list[Hole], outputs: list[Hole], log: list[Hole]
) -> dict[str, Any]:
    """Writes the document that a user applies to have this Plan."""
    assert plan.image is not None
    image, version = plan.image
    return {
        "image": f"{image}:{version}",
        "entrypoint": list(plan.entrypoint),
        "args": list(plan.args),
        "inputs": [{"path": one.path, "tags": _tags(records, one)} for one in inputs],
        "outputs": [{"path": one.path, "tags": _tags(records, one)} for one in outputs],
        "log": {"tags": _tags(records, log[0])} if log else None,
        "on_node": {
            mode.value: [f"{key}={value}" for its, key, value in plan.on_node if its == mode]
            for mode in NodeMode
        },
        "resources": plan.resources,
        "service_account": plan.service_account,
        "annotations": [f"{key}={value}" for key, value in plan.annotations],
        "active": plan.active,
    }


def _tags(records: Records, hole: Hole) -> list[dict[str, str]]:
    tags = [{"key": one.key, "value": one.value} for one in tags_of(records, hole.tag_ids)]
    if hole.knit_id is not None:
        tags.append({"key": KEY_ID, "value": hole.knit_id})
    if hole.timestamp is not None:
        tags.append({"key": KEY_TIMESTAMP, "value": hole.timestamp.isoformat()})
    return tags


def _as_it_is(
    records: Records, plan: KnitfabPlan, inputs: list[Hole], outputs: list[Hole], log: list[Hole]
) -> tuple[PlanSpec, list[str]]:
    """Gives the Plan without any check, but not active; and what of it is left out."""
    assert plan.image is not None
    resources, dropped = _resources(plan)
    spec = PlanSpec(
        image=Image(*plan.image),
        inputs=tuple(
            PlanInput(
                one.path, Requirement(tags_of(records, one.tag_ids), one.knit_id, one.timestamp)
            )
            for one in inputs
        ),
        outputs=tuple(PlanOutput(one.path, tags_of(records, one.tag_ids)) for one in outputs),
        log=tags_of(records, log[0].tag_ids) if log else None,
        entrypoint=plan.entrypoint,
        args=plan.args,
        on_node=tuple(sorted(NodeRule(NodeMode(mode), *rule) for mode, *rule in plan.on_node)),
        resources=resources,
        service_account=plan.service_account,
        annotations=tuple(sorted(Annotation(*one) for one in plan.annotations)),
        active=False,
    )
    return spec, dropped


def _resources(plan: KnitfabPlan) -> tuple[dict[str, str], list[str]]:
    found = dict(DEFAULT_RESOURCES)
    dropped = []
    for name, amount in plan.resources.items():
        try:
            found[name] = parse_resource(name, amount, f"resources.{name}")
        except (InvalidPlan, InvalidQuantity):
            dropped.append(f"its resource {name}: {amount} is left out")
    return dict(sorted(found.items())), dropped
