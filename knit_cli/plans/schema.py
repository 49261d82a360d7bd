"""The JSON Schema of a Plan file, generated from the wire type, for editors.

It differs a little from the API's schema: a file may write a word of a command as a number (`3`),
and what every Plan needs is required. Limits of single values are stated; those of several together
are the rules' alone.
"""

from __future__ import annotations

import json
from typing import Any

from knit_workflows.domain.plans.rules import MAX_MOUNTPOINTS, MAX_PATH_BYTES
from knit_workflows.domain.plans.size import MAX_WORD_BYTES
from knit_workflows.wire.plans import PlanSpec

SCHEMA_FILE = "plan.schema.json"
"""The file name by which Plan files refer to the schema beside them."""

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_WORD = {"type": ["string", "number", "boolean"], "maxLength": MAX_WORD_BYTES}
_WORDS_KEYS = ("entrypoint", "args")


def plan_schema() -> dict[str, Any]:
    """Generates the schema as plain values."""
    schema = PlanSpec.model_json_schema(mode="validation")
    shapes, keys = schema["$defs"], schema["properties"]
    shapes["Tag"]["anyOf"][1].pop("description")  # it is about the wire format
    for shape in ("InputSpec", "OutputSpec"):
        shapes[shape]["properties"]["path"] |= {"pattern": "^/", "maxLength": MAX_PATH_BYTES}
    shapes["InputSpec"]["required"] = ["path", "tags"]
    shapes["InputSpec"]["properties"]["tags"] = _filled(shapes["InputSpec"]["properties"]["tags"])
    keys["inputs"] = _filled(keys["inputs"])
    keys["inputs"]["maxItems"] = MAX_MOUNTPOINTS
    keys["outputs"]["anyOf"][0]["maxItems"] = MAX_MOUNTPOINTS
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
    """Generates the schema as printed and as kept in the docs, without a final newline."""
    return json.dumps(plan_schema(), indent=2, ensure_ascii=False)


def _filled(part: dict[str, Any]) -> dict[str, Any]:
    """Gives the schema of a required, non-empty list."""
    return {**part["anyOf"][0], "minItems": 1, "description": part["description"]}


def _untitled(part: dict[str, Any]) -> None:
    """Removes titles that only repeat the names of keys, which editors would show."""
    part.pop("title", None)
    for inner in [*part.get("properties", {}).values(), *part.get("anyOf", [])]:
        _untitled(inner)
