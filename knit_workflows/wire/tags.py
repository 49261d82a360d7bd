"""Tags on the wire: `key:value` out; the same text or a `{"key", "value"}` object in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from knit_workflows.wire.base import Request, Texts, null_as_list

_TEXT_FORM = {"type": "string", "examples": ["type:dataset"], "pattern": ":"}


class Tag(BaseModel):
    """One tag. Which keys and characters are allowed is the engine's to judge, not the wire's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Gives the tag of `key:value`: split at the first colon, both parts stripped.

        Raises:
            ValueError: there is no colon.
        """
        key, colon, value = text.partition(":")
        if not colon:
            raise ValueError(f"the tag {text!r} has no ':'; write it as key:value")
        return cls(key=key.strip(), value=value.strip())

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            tag = cls.parse(value)
            return {"key": tag.key, "value": tag.value}
        return value

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.key}:{self.value}"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        if handler.mode == "serialization":
            return {**_TEXT_FORM, "title": "Tag"}
        return {"title": "Tag", "anyOf": [_TEXT_FORM, handler(core_schema)]}


RequestTags = Annotated[
    list[Tag], BeforeValidator(null_as_list, json_schema_input_type=list[Tag] | None)
]
"""Tags in a request; `null` is read as `[]`."""


class TagChange(Request):
    """The body of `PUT /data/{knitId}`: removals come first, then additions; each is idempotent."""

    add: RequestTags = Field(default_factory=list)
    remove: RequestTags = Field(default_factory=list)
    remove_key: Texts = Field(default_factory=list)
