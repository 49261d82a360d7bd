"""Changes of a registered Plan: from decoded documents to checked values.

Errors name their place as those of `plans.rules` do (`set.cpu`, `remove[1]`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from knit_workflows.domain.plans.forms import (
    parse_annotation,
    parse_priority,
    parse_service_account,
    read_list,
    read_mapping,
    read_texts,
    refuse,
)
from knit_workflows.domain.plans.model import Annotation, AnnotationChange, ResourceChange
from knit_workflows.domain.plans.resources import parse_resource, read_resources

_RESOURCES: Final = ("set", "unset")
_ANNOTATIONS: Final = ("add", "remove", "remove_key")


def parse_resource_change(document: object) -> ResourceChange:
    """Reads `{"set": {name: quantity}, "unset": [name]}`; raises InvalidPlan, InvalidQuantity.

    Names to unset need not be known to Kubernetes: then nothing is unset.
    """
    parts = read_mapping(document, "", _RESOURCES)
    wanted = {
        name: parse_resource(name, quantity, f"set.{name}")
        for name, quantity in read_resources(parts.get("set"), "set").items()
    }
    return ResourceChange(wanted, frozenset(read_texts(parts.get("unset"), "unset")))


def parse_annotation_change(document: object) -> AnnotationChange:
    """Reads `{"add": ["k=v"], "remove": ["k=v"], "remove_key": ["k"]}`; raises InvalidPlan."""
    parts = read_mapping(document, "", _ANNOTATIONS)
    keys = read_texts(parts.get("remove_key"), "remove_key")
    return AnnotationChange(
        add=_annotations(parts, "add"),
        remove=_annotations(parts, "remove"),
        remove_keys=frozenset(key.strip() for key in keys),
    )


def _annotations(parts: Mapping[str, object], place: str) -> frozenset[Annotation]:
    notes = enumerate(read_list(parts.get(place), place))
    return frozenset(parse_annotation(note, f"{place}[{i}]") for i, note in notes)


def parse_service_account_change(document: object) -> str:
    """Reads `{"service_account": name}`; raises InvalidPlan, also when there is no name."""
    key = "service_account"
    name = parse_service_account(read_mapping(document, "", (key,)).get(key), key)
    if name is None:
        raise refuse(key, "there is no name", "write one; to have none, unset it instead")
    return name


def parse_priority_change(document: object) -> int:
    """Reads `{"priority": number}`; raises InvalidPlan, also when there is none."""
    parts = read_mapping(document, "", ("priority",))
    if parts.get("priority") is None:
        raise refuse("priority", "there is no number", "write one; 0 is what Plans begin with")
    return parse_priority(parts["priority"], "priority")
