"""Reads a Plan written in YAML; reports faults by line and column, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from knit_cli.errors import BadInput
from knit_cli.plans.image import PLACEHOLDER
from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.plans import InputSpec, LogSpec, OnNodeSpec, OutputSpec, PlanSpec

Location = tuple[str | int, ...]

_NULL = "tag:yaml.org,2002:null"
# With anchors, a small file can expand to a huge or endless one.
_MAX_NODES = 100_000
_MAX_DEPTH = 20
_SHAPES: Mapping[str, type[BaseModel]] = {
    "inputs": InputSpec,
    "outputs": OutputSpec,
    "log": LogSpec,
    "on_node": OnNodeSpec,
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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise BadInput(
            f"cannot read {name}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
    except UnicodeDecodeError as cause:
        raise BadInput(
            f"{name} is not text in UTF-8", reason=str(cause), advice=_NOTHING_SENT
        ) from cause
    document = _Document(name, text)
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
        self._marks: dict[Location, yaml.Mark] = {}
        self._nodes = 0
        self._checked: set[int] = set()
        try:
            self._loader = yaml.SafeLoader(text)
            node = self._loader.get_single_node()
            self.content = self._value(node, ()) if node is not None else {}
        except yaml.MarkedYAMLError as cause:
            mark = cause.problem_mark or cause.context_mark
            message = " ".join(part for part in (cause.problem, cause.context) if part)
            raise self._not_yaml(f"{self._at(mark)}{message}") from cause
        except yaml.reader.ReaderError as cause:
            raise self._not_yaml(str(cause)) from cause
        except RecursionError as cause:
            raise self._not_yaml("it is nested too deeply") from cause

    def broken(self, faults: list[tuple[Location, str]]) -> BadInput:
        """Gives the error that lists all faults in the order of the file."""
        placed = [(self._mark_of(location), message) for location, message in faults]
        placed.sort(key=lambda fault: (fault[0].line, fault[0].column) if fault[0] else (0, 0))
        return self.invalid([f"{self._at(mark)}{message}" for mark, message in placed])

    def invalid(self, faults: list[str]) -> BadInput:
        """Gives the error for faults that already include their locations."""
        return BadInput(
            f"{self._name} is not a valid Plan", reason="\n".join(faults), advice=_NOTHING_SENT
        )

    def at(self, location: str) -> str:
        """Gives the position in the file of a location, or of its nearest present ancestor."""
        around = [one for one in self._marks if location.startswith(_shown(one)) or not one]
        nearest = max(around, key=lambda one: len(_shown(one)) if one else 0, default=())
        return self._at(self._marks.get(nearest))

    def _not_yaml(self, reason: str) -> BadInput:
        return BadInput(f"{self._name} is not valid YAML", reason=reason, advice=_NOTHING_SENT)

    def _at(self, mark: yaml.Mark | None) -> str:
        return f"{self._name}:{mark.line + 1}:{mark.column + 1}: " if mark is not None else ""

    def _mark_of(self, location: Location) -> yaml.Mark | None:
        while location not in self._marks and location:
            location = location[:-1]
        return self._marks.get(location)

    def _value(self, node: yaml.Node, location: Location) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(location) > _MAX_DEPTH:
            raise self.broken([(location[:1], "this is too large or too deep for a Plan")])
        self._marks.setdefault(location, node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*location, i)) for i, item in enumerate(node.value)]
        return None if node.tag == _NULL else node.value

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        self._refuse_repeated_keys(node, location)
        self._loader.flatten_mapping(node)  # `<<: *base`
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = (*location, key_node.value)
            self._marks[here] = key_node.start_mark
            values[key_node.value] = self._value(value_node, here)
        return values

    def _refuse_repeated_keys(self, node: yaml.MappingNode, location: Location) -> None:
        # Check only what is written: after a merge, a node met again through an alias contains its
        # own keys and the merged ones.
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        seen: set[str] = set()
        for key_node, _ in node.value:
            plain = isinstance(key_node, yaml.ScalarNode)
            if plain and key_node.value not in seen:
                seen.add(key_node.value)
                continue
            here = (*location, key_node.value if plain else "")
            self._marks[here] = key_node.start_mark
            message = f"duplicate key {key_node.value!r}" if plain else "a key must be a word"
            raise self.broken([(here, message)])


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
    return _SHAPES.get(str(location[0]), PlanSpec) if len(location) > 1 else PlanSpec
