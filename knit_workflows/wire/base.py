"""The base of every wire type: how names, empty keys and unknown keys behave on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
)

Wire = dict[str, Any]
"""Plain values under the names of the wire."""

# The contract writes four names in camelCase and all others (on_node, remove_key, …) in snake_case.
_CAMEL_CASE = {
    "plan_id": "planId",
    "run_id": "runId",
    "knit_id": "knitId",
    "updated_at": "updatedAt",
}


def _wire_name(field_name: str) -> str:
    return _CAMEL_CASE.get(field_name, field_name)


# Separate validation and serialization aliases (not `alias`) keep the Python names in constructors
# for type checkers, while JSON in, JSON out and JSON Schema all speak the wire's names.
_NAMES = AliasGenerator(validation_alias=_wire_name, serialization_alias=_wire_name)


class _Wire(BaseModel):
    model_config = ConfigDict(
        alias_generator=_NAMES,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
    )


class Response(_Wire):
    """A value the server sends. Keys a newer server adds are kept: printing it loses nothing."""

    model_config = ConfigDict(extra="allow")


class Request(_Wire):
    """A value a client sends. An unknown key is refused: ignoring it loses what the user meant."""

    model_config = ConfigDict(extra="forbid")


def is_empty(value: object) -> bool:
    """Says whether a `?` key of the contract is left out: for None, 0, and an empty value."""
    return not value


def is_absent(value: object) -> bool:
    """Says whether a `?` key with an object is left out: only for None."""
    return value is None


def optional() -> Any:
    """Makes a `?` key that is left out for None, which it is unless it is given."""
    return Field(default=None, exclude_if=is_absent)


def null_as_list(value: Any) -> Any:
    """Reads `null` as an empty list: clients written in Go send it for a list they did not fill."""
    return [] if value is None else value


# The input type keeps JSON Schema honest: it says that null is accepted.
Texts = Annotated[list[str], BeforeValidator(null_as_list, json_schema_input_type=list[str] | None)]
"""A list of strings in a request; `null` is read as `[]`."""

_JSON: TypeAdapter[Any] = TypeAdapter(Any)


def to_wire(value: BaseModel | list[Any] | dict[str, Any]) -> Any:
    """Gives the exact wire JSON of a wire type, or of a list or dict of them, as plain values.

    Names, left-out keys and time format are those of the contract; `json.dumps` takes the result.
    """
    return _JSON.dump_python(value, mode="json")


__all__ = [
    "Request",
    "Response",
    "Texts",
    "is_absent",
    "is_empty",
    "null_as_list",
    "optional",
    "to_wire",
]
