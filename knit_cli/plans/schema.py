"""The JSON Schema of a Plan file, made from the wire type, for editors that check while one types.

It is a little wider and a little narrower than the API's: a file may write a word of a command as
a number (`3`), and what every Plan needs is required here already.
"""

from __future__ import annotations

import json
from typing import Any

from knit_workflows.wire.plans import PlanSpec

SCHEMA_FILE = "plan.schema.json"
"""What the schema is called where Plan files refer to it: beside them."""

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_WORD = {"type": ["string", "number", "boolean"]}
_WORDS_KEYS = ("entrypoint", "args")


def plan_schema() -> dict[str, Any]:
    """Gives the schema as plain values."""
    schema = PlanSpec.model_json_schema(mode="validation")
    shapes, keys = schema["$defs"], schema["properties"]
    shapes["Tag"]["anyOf"][1].pop("description")  # it is about the wire
    for shape in ("InputSpec", "OutputSpec"):
        shapes[shape]["properties"]["path"]["pattern"] = "^/"
    shapes["InputSpec"]["required"] = ["path", "tags"]
    shapes["InputSpec"]["properties"]["tags"] = _filled(shapes["InputSpec"]["properties"]["tags"])
    keys["inputs"] = _filled(keys["inputs"])
    for key in _WORDS_KEYS:
        keys[key]["anyOf"][0]["items"] = _WORD
    for part in (schema, *shapes.values()):
        _untitled(part)
    return {
        "$schema": _DRAFT,
        **schema,
        "title": "Plan",
        "description": "One kind of computation: an image, and what goes in and comes out.",
        "required": ["image", "inputs"],
    }


def plan_schema_text() -> str:
    """Gives the schema as it is printed and kept in the documentation, without a final newline."""
    return json.dumps(plan_schema(), indent=2, ensure_ascii=False)


def _filled(part: dict[str, Any]) -> dict[str, Any]:
    """Gives the schema of a list that is there and has an entry."""
    return {**part["anyOf"][0], "minItems": 1, "description": part["description"]}


def _untitled(part: dict[str, Any]) -> None:
    """Takes away titles that only repeat the names of keys; editors show them as noise."""
    part.pop("title", None)
    for inner in [*part.get("properties", {}).values(), *part.get("anyOf", [])]:
        _untitled(inner)
