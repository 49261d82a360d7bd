"""The rules of a Plan: from a decoded document to a checked `PlanSpec`.

The order of the checks is part of the contract; the first violation is the one reported:

0. the document decodes: known keys, right types, well-formed image, tags, quantities, notes
1. on_node keys and values, by mode, key, value
2. image name and tag are there
3. there is an input
4. no path is empty: inputs, then outputs
5. each input, by path: clean path → has tags → system tags legal → overlaps nothing that follows
6. each output, by path: clean path → no system tag → overlaps nothing that follows
7. the log: no system tag, and no output at `/log`, where the log itself is kept
8. a cluster can store a Job with these words and paths

Every refusal names its place (`inputs[1].path`) at the front of `reason` and alone in `see`, so
that a command line can point at the line of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from knit_workflows.domain.errors import InvalidPlan, InvalidQuantity, InvalidTag
from knit_workflows.domain.ids import parse_id
from knit_workflows.domain.plans.forms import (
    check_node_rule,
    parse_annotation,
    parse_node_rule,
    parse_priority,
    parse_service_account,
    parse_tag_form,
    read_list,
    read_mapping,
    read_text,
    read_texts,
    refuse,
    wrong_type,
)
from knit_workflows.domain.plans.images import parse_image
from knit_workflows.domain.plans.model import (
    LOG_PATH,
    NodeMode,
    NodeRule,
    PlanInput,
    PlanOutput,
    PlanSpec,
    Requirement,
)
from knit_workflows.domain.plans.option_forms import parse_pod, parse_volume
from knit_workflows.domain.plans.options import PlanOptions
from knit_workflows.domain.plans.resources import parse_resource, read_resources
from knit_workflows.domain.plans.size import check_size, check_words
from knit_workflows.domain.tags import (
    KEY_ID,
    KEY_TIMESTAMP,
    Tag,
    parse_timestamp,
)
from knit_workflows.domain.volumes import AS_INSTALLED, VolumeOptions

__all__ = [
    "DEFAULT_RESOURCES",
    "MAX_MOUNTPOINTS",
    "MAX_PATH_BYTES",
    "parse_plan",
    "parse_tag_form",
]

DEFAULT_RESOURCES: Final[Mapping[str, str]] = {"cpu": "1", "memory": "1Gi"}
"""What a Plan gets of a resource it does not mention."""
MAX_MOUNTPOINTS: Final = 1000
"""Inputs and outputs of one Plan together; far more than a Pod can mount."""
MAX_PATH_BYTES: Final = 4095
_MAX_NAME_BYTES: Final = 255
"""What Linux takes as a path (PATH_MAX, with its NUL) and as one name in it (NAME_MAX)."""
_KERNELS: Final = ("proc", "sys")
"""Folders that the kernel fills, where no container may mount anything."""
_KEYS: Final = (
    "annotations", "image", "entrypoint", "args", "inputs", "outputs", "log", "active", "on_node",
    "resources", "service_account", "priority", "pod",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Draft:
    """A mountpoint as written: where in the document, its path without one trailing slash."""

    place: str
    path: str
    tags: frozenset[Tag]
    volume: VolumeOptions = AS_INSTALLED


_PlacedRule = tuple[NodeRule, str]


def parse_plan(document: Mapping[str, object]) -> PlanSpec:
    """Reads and checks a decoded YAML or JSON document; raises InvalidPlan.

    Fills the defaults in: image tag `latest`, cpu and memory, active, priority. Tags, on_node
    entries and annotations become sets, mountpoints are sorted by path, quantities are canonical,
    instants are cut to milliseconds. So equal results mean equal Plans, however they were written.
    """
    try:
        return _parse_plan(document)
    except (InvalidTag, InvalidQuantity) as cause:
        raise InvalidPlan(cause.reason, advice=cause.advice, see=cause.see) from cause


def _parse_plan(document: object) -> PlanSpec:
    top = read_mapping(document, "", _KEYS)
    image = parse_image(read_text(top.get("image") or "", "image"), "image")
    entrypoint = read_texts(top.get("entrypoint"), "entrypoint")
    args = read_texts(top.get("args"), "args")
    check_words(entrypoint, args)
    inputs = _drafts(top.get("inputs"), "inputs", ("path", "tags"))
    outputs = _drafts(top.get("outputs"), "outputs", ("path", "tags", "volume"))
    log, log_volume = _log(top.get("log"))
    on_node = _node_rules(top.get("on_node"))
    resources = _resources(top.get("resources"))
    service_account = parse_service_account(top.get("service_account"), "service_account")
    notes = enumerate(read_list(top.get("annotations"), "annotations"))
    annotations = {parse_annotation(note, f"annotations[{i}]") for i, note in notes}
    active = _active(top.get("active"))
    priority = parse_priority(top.get("priority"), "priority")
    pod = parse_pod(top.get("pod"), "pod")

    for rule, place in on_node:
        check_node_rule(rule, place)
    if not (image.repository and (image.image_tag or image.digest)):
        raise refuse("image", "the image has no name or no tag", "write repository:tag")
    _check_mountpoints(inputs, outputs)
    checked_inputs = tuple(
        _checked_input(one, [*inputs[i + 1 :], *outputs]) for i, one in enumerate(inputs)
    )
    checked_outputs = tuple(_checked_output(one, outputs[i + 1 :]) for i, one in enumerate(outputs))
    _check_log(log, outputs)
    check_size(entrypoint, args, [one.path for one in inputs], [one.path for one in outputs])
    return PlanSpec(
        image=image,
        inputs=checked_inputs,
        outputs=checked_outputs,
        log=log,
        entrypoint=entrypoint,
        args=args,
        on_node=tuple(sorted({rule for rule, _ in on_node})),
        resources=resources,
        service_account=service_account,
        annotations=tuple(sorted(annotations)),
        active=active,
        priority=priority,
        options=PlanOptions(pod, _volumes(outputs, log_volume)),
    )


# --- reading (check 0) ---


def _drafts(value: object, place: str, keys: Sequence[str]) -> list[_Draft]:
    """Returns the mountpoints in the order of their paths."""
    drafts = []
    for i, item in enumerate(read_list(value, place)):
        here = f"{place}[{i}]"
        parts = read_mapping(item, here, keys)
        path = read_text("" if parts.get("path") is None else parts["path"], f"{here}.path")
        tags = _tags(parts.get("tags"), f"{here}.tags")
        volume = parse_volume(parts.get("volume"), f"{here}.volume")
        drafts.append(_Draft(here, path.removesuffix("/"), tags, volume))
    return sorted(drafts, key=lambda draft: draft.path)


def _tags(value: object, place: str) -> frozenset[Tag]:
    items = enumerate(read_list(value, place))
    return frozenset(parse_tag_form(item, f"{place}[{i}]") for i, item in items)


def _log(value: object) -> tuple[frozenset[Tag] | None, VolumeOptions]:
    if value is None:
        return None, AS_INSTALLED
    parts = read_mapping(value, "log", ("tags", "volume"))
    return _tags(parts.get("tags"), "log.tags"), parse_volume(parts.get("volume"), "log.volume")


def _node_rules(value: object) -> list[_PlacedRule]:
    modes = (
        {} if value is None else read_mapping(value, "on_node", [mode.value for mode in NodeMode])
    )
    rules = []
    for mode in NodeMode:
        for i, text in enumerate(read_texts(modes.get(mode.value), f"on_node.{mode}")):
            place = f"on_node.{mode}[{i}]"
            rules.append((parse_node_rule(mode, text, place), place))
    return sorted(rules)


def _resources(value: object) -> dict[str, str]:
    """Returns quantities by name, in the order of the names, the defaults among them."""
    found = dict(DEFAULT_RESOURCES)
    for name, quantity in read_resources(value, "resources").items():
        found[name] = parse_resource(name, quantity, f"resources.{name}")
    return dict(sorted(found.items()))


def _volumes(outputs: Iterable[_Draft], log: VolumeOptions) -> dict[str, VolumeOptions]:
    found = {draft.path: draft.volume for draft in outputs} | {LOG_PATH: log}
    return {path: volume for path, volume in found.items() if volume != AS_INSTALLED}


def _active(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, bool):
        raise wrong_type("active", "true or false", value)
    return value


# --- checking (1 to 7) ---


def _check_mountpoints(inputs: Sequence[_Draft], outputs: Sequence[_Draft]) -> None:
    if not inputs:
        advice = "give it an input with tags; nothing else makes its Runs appear"
        raise refuse("inputs", "the Plan has no input", advice)
    if len(inputs) + len(outputs) > MAX_MOUNTPOINTS:
        advice = f"a Plan has at most {MAX_MOUNTPOINTS} inputs and outputs"
        raise refuse("inputs", "the Plan has too many mountpoints", advice)
    for draft in (*inputs, *outputs):
        if not draft.path:
            advice = "write an absolute path below /, e.g. /in/dataset"
            raise refuse(f"{draft.place}.path", "the path is empty", advice)


def _checked_input(draft: _Draft, following: Sequence[_Draft]) -> PlanInput:
    _check_path(draft)
    if not draft.tags:
        advice = "name the tags that Data must have, e.g. type:dataset"
        raise refuse(f"{draft.place}.tags", "the input has no tags", advice)
    requirement = _requirement(draft)
    _check_overlap(draft, following)
    return PlanInput(draft.path, requirement)


def _checked_output(draft: _Draft, following: Sequence[_Draft]) -> PlanOutput:
    _check_path(draft)
    _check_no_system_tag(draft.tags, f"{draft.place}.tags")
    _check_overlap(draft, following)
    return PlanOutput(draft.path, draft.tags)


def _check_path(draft: _Draft) -> None:
    place, path = f"{draft.place}.path", draft.path
    root, *parts = path.split("/")
    long_name = any(len(part.encode()) > _MAX_NAME_BYTES for part in parts)
    if long_name or len(path.encode()) > MAX_PATH_BYTES:
        advice = f"Linux takes {MAX_PATH_BYTES} bytes, and {_MAX_NAME_BYTES} between two slashes"
        raise refuse(place, "the path is too long", advice)
    if root or not parts or any(part in ("", ".", "..") for part in parts):
        advice = "write an absolute path without '.', '..' and '//', e.g. /in/dataset"
        raise refuse(place, f"{path[:100]!r} is not absolute and clean", advice)
    # Kubernetes and container engines alike split mounts at the colon.
    if any(char == ":" or ord(char) < 32 or ord(char) == 127 for char in path):
        advice = "leave colons, line breaks and other control characters out of paths"
        raise refuse(place, f"{path[:100]!r} cannot be mounted", advice)
    if parts[0] in _KERNELS:
        advice = "choose another folder, e.g. /in/dataset"
        raise refuse(place, f"nothing can be mounted in /{parts[0]}, the kernel's own", advice)


def _requirement(draft: _Draft) -> Requirement:
    place = f"{draft.place}.tags"
    ids: set[str] = set()
    instants: set[datetime] = set()
    for tag in sorted(tag for tag in draft.tags if tag.is_system):
        if tag.key == KEY_ID:
            ids.add(_knit_id(tag.value, place))
        elif tag.key == KEY_TIMESTAMP:
            instants.add(_instant(tag.value, place))
        else:
            advice = (
                f"of knit's own tags an input may ask for {KEY_ID}:ID of a Data and "
                f"{KEY_TIMESTAMP}:TIME only; it waits for finished Data by itself"
            )
            raise refuse(place, f"the system tag {str(tag)[:100]!r} is not allowed here", advice)
    if len(ids) > 1 or len(instants) > 1:
        key = KEY_ID if len(ids) > 1 else KEY_TIMESTAMP
        raise refuse(place, f"there are two values of {key}", "keep one: a Data has only one")
    users = frozenset(tag for tag in draft.tags if not tag.is_system)
    return Requirement(users, next(iter(ids), None), next(iter(instants), None))


def _knit_id(text: str, place: str) -> str:
    knit_id = parse_id(text)
    if knit_id is None:
        advice = (
            f"write {KEY_ID}: and the id of a Data, 36 characters such as "
            "11aa22bb-0000-4000-8000-333333333333; `knit data find` shows them"
        )
        raise refuse(place, f"{text[:100]!r} is not the id of a Data", advice)
    return knit_id


def _instant(text: str, place: str) -> datetime:
    try:
        return parse_timestamp(text)
    except InvalidTag as cause:
        raise refuse(place, cause.reason, cause.advice) from cause


def _check_no_system_tag(tags: Iterable[Tag], place: str) -> None:
    for tag in sorted(tags):
        if tag.is_system:
            advice = "remove it; knit itself gives the tags that begin with knit#"
            raise refuse(place, f"the system tag {str(tag)[:100]!r} is not allowed here", advice)


def _check_overlap(draft: _Draft, following: Iterable[_Draft]) -> None:
    folder = f"{draft.path}/"
    for other in following:
        theirs = f"{other.path}/"
        if folder.startswith(theirs) or theirs.startswith(folder):
            problem = f"{draft.path[:100]} and {other.path[:100]} ({other.place}) overlap"
            advice = "give each input and output a folder of its own, none inside another"
            raise refuse(f"{draft.place}.path", problem, advice)


def _check_log(log: frozenset[Tag] | None, outputs: Iterable[_Draft]) -> None:
    if log is None:
        return
    _check_no_system_tag(log, "log.tags")
    for draft in outputs:
        if draft.path == LOG_PATH:
            advice = "give the output another path, or leave the log out"
            raise refuse(f"{draft.place}.path", f"{LOG_PATH} is the place of the log", advice)
