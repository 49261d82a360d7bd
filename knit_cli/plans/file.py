"""Reads a Plan written in YAML; reports faults by line and column, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from knit_cli.errors import BadInput
from knit_cli.os_failures import read_text
from knit_cli.plans.image import PLACEHOLDER
from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans.model import LOG_PATH
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.options import (
    OptionsChange,
    PodSpec,
    SpreadSpec,
    TolerationSpec,
    VolumeSpec,
)
from knit_workflows.wire.plans import InputSpec, LogSpec, OnNodeSpec, OutputSpec, PlanSpec
from knit_workflows.yaml_lines import Document, Location, NotYaml, Unfit

_SHAPES: Mapping[str, type[BaseModel]] = {
    "inputs": InputSpec,
    "outputs": OutputSpec,
    "log": LogSpec,
    "on_node": OnNodeSpec,
    "pod": PodSpec,
}
_INNER_SHAPES: Mapping[str, type[BaseModel]] = {
    "volume": VolumeSpec,
    "tolerations": TolerationSpec,
    "topology_spread": SpreadSpec,
}
_NOTHING_SENT = "correct the file; nothing was sent"


class PlanFile:
    """A Plan in a file: its content, and where in the file each part is."""

    def __init__(self, spec: PlanSpec, document: _Document) -> None:
        self.spec = spec
        self._document = document

    def at(self, location: str) -> str:
        """Gives `FILE:LINE:COLUMN: ` of a location such as `inputs[0].path`, or the nearest one."""
        return self._document.at(location)

    def options(self) -> OptionsChange:
        """Gives what the Plan asks of a cluster for run pods and volumes."""
        outputs = {one.path.removesuffix("/") or "/": one.volume for one in self.spec.outputs}
        log = self.spec.log.volume if self.spec.log is not None else None
        volumes = {path: one for path, one in {**outputs, LOG_PATH: log}.items() if one is not None}
        return OptionsChange(pod=self.spec.pod, volumes=volumes)

    def check_rules(self) -> None:
        """Raises BadInput, with the location, if the Plan breaks a rule that servers check too."""
        try:
            parse_plan(to_wire(self.spec))
        except InvalidPlan as cause:
            message = f"{self.at(cause.see)}{cause.reason}; {cause.advice}"
            raise self._document.invalid([message]) from cause


def read_plan(path: Path, shown: str | None = None) -> PlanFile:
    """Reads the Plan in the file; checks its shape only, not the rules.

    Args:
        path: the file.
        shown: the path as the user wrote it, for messages.

    Raises:
        BadInput: the file cannot be read, is not YAML, or does not have the shape of a Plan; the
            reason has a line `FILE:LINE:COLUMN: …` per fault.
    """
    name = shown or str(path)
    document = _Document(name, read_text(path, name, advice=_NOTHING_SENT))
    try:
        spec = PlanSpec.model_validate(document.content)
    except ValidationError as cause:
        faults = [_fault(found) for found in cause.errors(include_url=False)]
        raise document.broken(list(dict.fromkeys(faults))) from cause
    if spec.image.startswith(f"{PLACEHOLDER}:"):
        placeholder_left = (
            f"image: {PLACEHOLDER} is a placeholder; replace it by the name of the image"
        )
        raise document.invalid([f"{document.at('image')}{placeholder_left}"])
    return PlanFile(spec, document)


class _Document:
    """A YAML file as plain values, with the location of each.

    Scalars stay as written (`3`, `1.10`, `yes`): a Plan consists of texts, and only its shape says
    which of them are booleans.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        try:
            self._yaml = Document(text)
        except NotYaml as cause:
            reason = (
                f"{self._at(cause.mark)}{' '.join(filter(None, (cause.problem, cause.context)))}"
            )
            raise BadInput(
                f"{name} is not valid YAML", reason=reason, advice=_NOTHING_SENT
            ) from cause
        except Unfit as cause:
            raise self.invalid([f"{self._at(cause.mark)}{cause}"]) from cause
        self.content = self._yaml.content

    def broken(self, faults: list[tuple[Location, str]]) -> BadInput:
        """Gives the error that lists all faults in the order of the file."""
        placed = [(self._yaml.mark_of(location), message) for location, message in faults]
        placed.sort(key=lambda fault: (fault[0].line, fault[0].column) if fault[0] else (0, 0))
        return self.invalid([f"{self._at(mark)}{message}" for mark, message in placed])

    def invalid(self, faults: list[str]) -> BadInput:
        """Gives the error for faults that already include their locations."""
        return BadInput(
            f"{self._name} is not a valid Plan", reason="\n".join(faults), advice=_NOTHING_SENT
        )

    def at(self, location: str) -> str:
        """Gives the position in the file of a location, or of its nearest present ancestor."""
        around = [one for one in self._yaml.marks if location.startswith(_shown(one)) or not one]
        nearest = max(around, key=lambda one: len(_shown(one)) if one else 0, default=())
        return self._at(self._yaml.marks.get(nearest))

    def _at(self, mark: yaml.Mark | None) -> str:
        return f"{self._name}:{mark.line + 1}:{mark.column + 1}: " if mark is not None else ""


def _fault(found: ErrorDetails) -> tuple[Location, str]:
    """Gives location and description of a fault, in the terms of a Plan file."""
    location = found["loc"]
    if "tags" in location[:-1]:
        # For any fault inside a tag, blame the tag as a whole.
        location = location[: location.index("tags") + 2]
        advice = 'write "key:value", in quotes or without a space after the colon'
        return location, f"{_shown(location)} is not a tag; {advice}"
    if found["type"] == "extra_forbidden":
        known = list(_shape_at(location).model_fields)
        near = get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return location, f"unknown key {_shown(location)!r}; {hint}"
    return location, _message(_shown(location), found)


def _message(name: str, found: ErrorDetails) -> str:
    match found["type"]:
        case "missing":
            return f"{name!r} is missing"
        case "string_type":
            return f"{name} must be text"
        case "list_type":
            return f"{name} must be a list; begin each item with '- '"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{name} must be a mapping of keys to values"
        case "bool_parsing" | "bool_type":
            return f"{name} must be true or false"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"{name} must be a whole number"
        case _:
            return f"{name}: {found['msg']}"


def _shown(location: Location) -> str:
    message = ""
    for part in location:
        message += f"[{part}]" if isinstance(part, int) else f".{part}" if message else str(part)
    return message or "the document"


def _shape_at(location: Location) -> type[BaseModel]:
    inner = next((str(part) for part in location[-2::-1] if str(part) in _INNER_SHAPES), None)
    if inner is not None:
        return _INNER_SHAPES[inner]
    return _SHAPES.get(str(location[0]), PlanSpec) if len(location) > 1 else PlanSpec
