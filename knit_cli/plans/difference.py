"""Compares a Plan file with a registered Plan: whether they are equivalent, and what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans import model
from knit_workflows.domain.plans.graph import identity_hash
from knit_workflows.domain.plans.options import PlanOptions, options_document
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.plans import Plan, PlanSpec


@dataclass(frozen=True)
class Difference:
    """A setting that differs and can be changed later: a description, and the command for it."""

    description: str
    command: str


def is_equivalent(spec: PlanSpec, plan: Plan) -> bool:
    """Tells whether the file describes this very Plan, by the API's own measure of identity."""
    try:
        return identity_hash(_parsed(spec)) == identity_hash(_parsed(plan))
    except InvalidPlan:  # such as a built-in Plan, which no file can describe
        return False


def differences(spec: PlanSpec, plan: Plan, file: str) -> list[Difference]:
    """Lists what differs between a file and an equivalent Plan, from `active` to the options."""
    wanted, present = _parsed(spec), _parsed(plan)
    return [
        *_active(wanted, present, plan.plan_id),
        *_resources(wanted.resources, present.resources, plan.plan_id),
        *_service_account(wanted, present, plan.plan_id),
        *_annotations(wanted, present, plan.plan_id),
        *_priority(wanted, present, plan.plan_id),
        *_options(wanted, present, plan.plan_id, file),
    ]


def _parsed(plan: PlanSpec | Plan) -> model.PlanSpec:
    """Parses a Plan of either form, so that equal values are written the same."""
    document: dict[str, Any] = to_wire(plan)
    known = {key: document[key] for key in PlanSpec.model_fields if key in document}
    for key in ("inputs", "outputs"):
        known[key] = [_only(one, "path", "tags", "volume") for one in known.get(key) or []]
    if known.get("log"):
        known["log"] = _only(known["log"], "tags", "volume")
    return parse_plan(known)


def _only(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: document[key] for key in keys if key in document}


def _active(wanted: model.PlanSpec, present: model.PlanSpec, plan_id: str) -> list[Difference]:
    if wanted.active == present.active:
        return []
    description = f"active is {_word(present.active)}, the file says {_word(wanted.active)}"
    mode = "yes" if wanted.active else "no"
    return [Difference(description, f"knit plan active {mode} {plan_id}")]


def _word(value: bool) -> str:
    return str(value).lower()


def _resources(
    wanted: Mapping[str, str], present: Mapping[str, str], plan_id: str
) -> list[Difference]:
    found = []
    for name in sorted({*wanted, *present}):
        has, wants = present.get(name), wanted.get(name)
        if has == wants:
            continue
        if wants is None:
            description = f"resources.{name} is {has}, the file has none"
            change = f"--unset {quote(name)}"
        else:
            description = f"resources.{name} is {has or 'not set'}, the file says {wants}"
            change = f"--set {quote(f'{name}={wants}')}"
        found.append(Difference(description, f"knit plan resource {change} {plan_id}"))
    return found


def _service_account(
    wanted: model.PlanSpec, present: model.PlanSpec, plan_id: str
) -> list[Difference]:
    wants, has = wanted.service_account, present.service_account
    if wants == has:
        return []
    description = f"service_account is {has or 'not set'}, the file says {wants or 'none'}"
    change = f"--set {quote(wants)}" if wants else "--unset"
    return [Difference(description, f"knit plan serviceaccount {change} {plan_id}")]


def _annotations(wanted: model.PlanSpec, present: model.PlanSpec, plan_id: str) -> list[Difference]:
    in_file, registered = set(map(str, wanted.annotations)), set(map(str, present.annotations))
    return [
        Difference(description, f"knit plan annotate {flag} {quote(entry)} {plan_id}")
        for description, flag, entry in [
            *(
                (f"the annotation {entry} is only in the file", "--add", entry)
                for entry in sorted(in_file - registered)
            ),
            *(
                (f"the annotation {entry} is not in the file", "--remove", entry)
                for entry in sorted(registered - in_file)
            ),
        ]
    ]


def _priority(wanted: model.PlanSpec, present: model.PlanSpec, plan_id: str) -> list[Difference]:
    if wanted.priority == present.priority:
        return []
    description = f"priority is {present.priority}, the file says {wanted.priority}"
    return [Difference(description, f"knit plan priority {plan_id} {wanted.priority}")]


def _options(
    wanted: model.PlanSpec, present: model.PlanSpec, plan_id: str, file: str
) -> list[Difference]:
    """Compares the options of run pods and volumes key by key; one command changes them all."""
    wants, has = _flat(wanted.options), _flat(present.options)
    named = [key for key in sorted({*wants, *has}) if wants.get(key) != has.get(key)]
    if not named:
        return []
    description = "\n".join(
        f"{key} is {has.get(key, 'not set')}, the file says {wants.get(key, 'nothing')}"
        for key in named
    )
    return [Difference(description, f"knit plan options --file {quote(file)} {plan_id}")]


def _flat(options: PlanOptions) -> dict[str, str]:
    document = options_document(options)
    parts = {"pod": document.get("pod", {})}
    parts |= {f"{path}: volume": one for path, one in document.get("volumes", {}).items()}
    return {
        f"{name}.{key}": json.dumps(value, sort_keys=True)
        for name, part in parts.items()
        for key, value in part.items()
    }
