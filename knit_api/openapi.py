"""What the OpenAPI document says beyond what FastAPI finds out: bodies, errors, streams."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from knit_api.codecs import GZIPPED_TAR, PLAIN_TAR
from knit_api.schemas.errors import ErrorBody
from knit_api.schemas.plans import PlanSpec
from knit_api.schemas.tags import TagChange

PATH: Final = "/api/openapi.json"

_REF: Final = "#/components/schemas/{model}"
_BODIES: Final[tuple[type[BaseModel], ...]] = (PlanSpec, TagChange)
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_WORDS: Final = {
    400: "the request is not valid",
    404: "there is no such thing",
    408: "the client sent nothing for too long",
    409: "the present state does not allow it",
    413: "the body is too large",
    415: "not a type of archive",
    503: "a part of knit does not answer, or it is too early; try again",
    507: "there is no space left for the Data",
}

Extra = dict[str, Any]


def failures(*statuses: int) -> dict[int | str, Extra]:
    """Describe the errors a route may answer with."""
    return {status: {"model": ErrorBody, "description": _WORDS[status]} for status in statuses}


def takes(model: type[BaseModel]) -> Extra:
    """Describe a JSON body that the route reads itself."""
    schema = {"$ref": _input_ref(model)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def takes_archive() -> Extra:
    """Describe a body that is an archive."""
    return {
        "requestBody": {"required": True, "content": {GZIPPED_TAR: _BINARY, PLAIN_TAR: _BINARY}}
    }


def gives_stream(*media_types: str) -> dict[int | str, Extra]:
    """Describe an answer that is a stream of bytes."""
    return {200: {"content": dict.fromkeys(media_types, _BINARY), "description": "the bytes"}}


def query(name: str, description: str, *, many: bool = False, kind: str = "string") -> Extra:
    """Describe a query parameter that the route reads itself."""
    schema: Extra = {"type": kind}
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"type": "array", "items": schema} if many else schema,
    }


def install(app: FastAPI) -> None:
    """Make the app give this document."""

    def document() -> Extra:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _document(app: FastAPI) -> Extra:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in _BODIES:
        schema = model.model_json_schema(ref_template=_REF + "In", mode="validation")
        for name, part in schema.pop("$defs", {}).items():
            schemas[f"{name}In"] = part
        schemas[f"{model.__name__}In"] = schema
    for path in document["paths"].values():
        for operation in path.values():
            # Queries are read by `queries`, never refused by FastAPI.
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _input_ref(model: type[BaseModel]) -> str:
    # What a client sends and what it gets differ (tags), so bodies have names of their own.
    return _REF.format(model=f"{model.__name__}In")
