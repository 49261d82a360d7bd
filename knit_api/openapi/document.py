"""What the OpenAPI document says beyond what FastAPI derives: bodies, errors, examples."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from knit_api.accounts.matrix import MATRIX
from knit_api.bodies import JWT
from knit_api.openapi import examples
from knit_api.parameters import Page
from knit_api.transfers.codecs import CHECKSUM_TRAILER, GZIPPED_TAR, PLAIN_TAR
from knit_workflows.wire.accounts import NewToken
from knit_workflows.wire.adoption import AdoptRequest
from knit_workflows.wire.errors import ErrorBody
from knit_workflows.wire.hooks.deliveries import HookSkip, HookTestRequest
from knit_workflows.wire.options import OptionsChange
from knit_workflows.wire.plans import (
    AnnotationsChange,
    PlanSpec,
    PriorityChange,
    ResourcesChange,
    ServiceAccountChange,
)
from knit_workflows.wire.tags import TagChange

PATH: Final = "/api/openapi.json"
SERVER: Final = "http://127.0.0.1:8080"
"""Where `python -m knit_api` listens; only the document's examples say so."""

_ABOUT: Final = """\
Every error has the same shape, `{"message": {"reason", "advice", "see"}}`, also those that no
operation mentions: 401 without a valid token (`WWW-Authenticate` says how to get one), 403 for a
role that does not allow it, or when a local API is called by another name than a loopback one, 404
for an unknown path, 405 for a method a path does not have (`Allow` names those it has), 429 for too
many requests (`Retry-After` says when to go on), 500 for a bug. `x-role` is the role that an
operation needs; each role may do what the ones before it may: viewer, editor, operator, admin.
Paths may end in `/`. Times are RFC 3339 with an offset.
"""
Extra = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    PlanSpec,
    ResourcesChange,
    OptionsChange,
    AnnotationsChange,
    ServiceAccountChange,
    PriorityChange,
    TagChange,
    NewToken,
    HookSkip,
    HookTestRequest,
    AdoptRequest,
)
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_TOKEN: Final[Extra] = {"schema": {"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}}
_DESCRIPTIONS: Final = {
    400: "the request is not valid",
    401: "the token is not valid",
    403: "the role does not allow it",
    404: "there is no such thing",
    408: "the body did not come, or not in time",
    409: "the present state does not allow it",
    413: "the body is too large",
    415: "not a type of archive",
    429: "too many requests",
    426: "over HTTP/1.0 nobody could tell whether the response is complete",
    500: "it cannot be done, and never will be unless the system changes",
    503: "a part of knit is unavailable, or it is too early; try again",
    507: "a disk is full; room must be made first",
}
_LEADS_TO: Final = {
    "upload_data": {"knit_id": "/knitId", "run_id": "/upstream/run/runId"},
    "find_data": {"knit_id": "/0/knitId", "run_id": "/0/upstream/run/runId"},
    "register_plan": {"plan_id": "/planId"},
    "find_plans": {"plan_id": "/0/planId"},
    "find_runs": {"run_id": "/0/runId", "plan_id": "/0/plan/planId"},
    "find_deliveries": {"delivery_id": "/0/id", "run_id": "/0/runId"},
    "create_token": {"token_id": "/tokenId"},
    "list_tokens": {"token_id": "/0/tokenId"},
}
"""JSON pointers into the responses of operations, to ids that other operations take."""


def failures(*statuses: int) -> dict[int | str, Extra]:
    """Describes the errors of a route.

    507 is one wherever a part may be unavailable, and 408 where a body of JSON is read.
    """
    full = {507} if 503 in statuses else set()
    late = {408} if 413 in statuses else set()
    return {status: _failure(status) for status in sorted({*statuses, *full, *late})}


def _failure(status: int) -> Extra:
    described: Extra = {
        "model": ErrorBody,
        "description": _DESCRIPTIONS[status],
        "content": {"application/json": {"example": examples.ERRORS[status]}},
    }
    if status == 503:
        described["headers"] = {
            "Retry-After": _header("seconds after which it may be retried", "integer")
        }
    return described


def takes(model: type[BaseModel]) -> Extra:
    """Describes a JSON body that the route reads itself."""
    schema = {"$ref": _input_ref(model)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def takes_archive() -> Extra:
    """Describes a body that is an archive."""
    return {
        "requestBody": {"required": True, "content": {GZIPPED_TAR: _BINARY, PLAIN_TAR: _BINARY}}
    }


def takes_token() -> Extra:
    """Describes a body that is a signed token."""
    return {"requestBody": {"required": True, "content": {JWT: _TOKEN}}}


def gives_token() -> dict[int | str, Extra]:
    """Describes a response that is a signed token."""
    return {200: {"content": {JWT: _TOKEN}, "description": "the token"}}


def gives_stream(*media_types: str) -> dict[int | str, Extra]:
    """Describes a response that is a stream of bytes."""
    described: Extra = {"content": dict.fromkeys(media_types, _BINARY), "description": "the bytes"}
    if GZIPPED_TAR in media_types:
        text = f"`{CHECKSUM_TRAILER}`, of {GZIPPED_TAR}: the MD5 of the body as it was sent"
        described["headers"] = {"Trailer": _header(text, "string")}
    else:
        described["headers"] = {
            "Log-Offset": _header("how many bytes were left out, as `offset` asked", "integer"),
            "Log-Size": _header(
                "how many bytes there are in all, unless it is followed", "integer"
            ),
            "Log-Knit-Id": _header("the log's Data: another one once the Run is retried", "string"),
        }
    return {200: described}


def gives_page(next_header: str) -> dict[int | str, Extra]:
    """Describes the headers of a response that is one page of a list."""
    headers = {
        "Link": _header('`<path>; rel="next"`, when there is a next page', "string"),
        next_header: _header("`cursor` of the next page, when there is one", "string"),
    }
    return {200: {"headers": headers}}


def request_header(name: str, description: str, *, schema: Extra) -> Extra:
    """Describes a header that the route reads itself, and that may be left out."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": schema,
    }


def install(app: FastAPI) -> None:
    """Makes this the document of the app."""

    def document() -> Extra:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _document(app: FastAPI) -> Extra:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=_ABOUT,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in examples.TAGS.items()],
        servers=[{"url": "/", "description": "where this document comes from"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in _BODIES:
        schema = model.model_json_schema(ref_template=_REF + "In", mode="validation")
        for name, part in schema.pop("$defs", {}).items():
            schemas[f"{name}In"] = part
        schemas[f"{model.__name__}In"] = schema
    for path, method, operation in operations(document):
        _complete(path, method, operation)
    _secure(document)
    _link(document)
    # FastAPI adds the shapes of its own errors, and what it finds in the models of queries.
    for unused in ("HTTPValidationError", "ValidationError", "RunStatus"):
        schemas.pop(unused, None)
    return document


def operations(document: Extra) -> Iterator[tuple[str, str, Extra]]:
    """Yields path, method in capitals, and description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _complete(path: str, method: str, operation: Extra) -> None:
    # What FastAPI itself would refuse is refused by `parameters`, as a 400.
    operation["responses"].pop("422", None)
    parameters = operation.get("parameters", [])
    parameters.sort(key=lambda one: one["name"] in Page.model_fields)  # filters come first
    for parameter in parameters:
        _complete_parameter(parameter)
    example = examples.OPERATIONS.get(operation["operationId"], examples.NOTHING)
    request = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if request is not None and example.request is not None:
        request["example"] = example.request
    bodies = operation["responses"].get("200", {}).get("content", {})
    if any(media != "application/json" for media in bodies):
        bodies.pop("application/json", None)  # FastAPI's guess, beside what the route says
    if "application/json" in bodies and example.response is not None:
        bodies["application/json"]["example"] = example.response
    operation["x-codeSamples"] = [{"lang": "Shell", "source": _curl(path, method, operation)}]


def _complete_parameter(parameter: Extra) -> None:
    schema = parameter["schema"]
    for known in ("title", "description"):
        schema.pop(known, None)
    if not schema.get("default", True):
        del schema["default"]  # ours for "absent"
    if parameter["in"] == "path":
        parameter["example"] = examples.IDS[parameter["name"]]
    elif shown := schema.pop("examples", None):
        parameter["example"] = shown[0]


def _secure(document: Extra) -> None:
    """Says how to authenticate, and which role each operation needs."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "a token"},
        "basic": {"type": "http", "scheme": "basic", "description": "a token, as the password"},
    }
    document["security"] = [{"bearer": []}, {"basic": []}]
    for _, _, operation in operations(document):
        rule = MATRIX.get(operation["operationId"])
        if rule is None or rule.role is None:
            operation["security"] = []
        else:
            operation["x-role"] = rule.role.value
            for status in (401, 403, 429):
                operation["responses"].setdefault(str(status), _refusal(status))


def _refusal(status: int) -> Extra:
    """Describes what access control answers."""
    content = {
        "schema": {"$ref": _REF.format(model=ErrorBody.__name__)},
        "example": examples.ERRORS[status],
    }
    return {
        "description": _DESCRIPTIONS[status],
        "content": {"application/json": content},
        "headers": {
            401: {"WWW-Authenticate": _header("how to authenticate (RFC 6750)", "string")},
            429: {"Retry-After": _header("seconds after which it may be sent", "integer")},
        }.get(status, {}),
    }


def _link(document: Extra) -> None:
    """Links the operations that give ids to those that take them."""
    taking: dict[str, list[str]] = {name: [] for name in examples.IDS}
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                taking[parameter["name"]].append(operation["operationId"])
    for _, _, operation in operations(document):
        links = {
            target: {"operationId": target, "parameters": {name: f"$response.body#{pointer}"}}
            for name, pointer in _LEADS_TO.get(operation["operationId"], {}).items()
            for target in taking[name]
        }
        if links:
            operation["responses"]["200"]["links"] = links


def _curl(path: str, method: str, operation: Extra) -> str:
    """Gives a command line for the operation, with the examples of its parameters."""
    pairs: list[tuple[str, Any]] = []
    for parameter in operation.get("parameters", ()):
        value = parameter.get("example")
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(value))
        elif value is not None:
            pairs += [(parameter["name"], one) for one in _listed(value)]
    target = SERVER + path + (f"?{urlencode(pairs)}" if pairs else "")
    command = ["curl", "--fail-with-body"]
    if method != "GET":
        command += ["--request", method]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        file = "@token.jwt" if media == JWT else "@archive.tar.gz"
        body = json.dumps(content["example"]) if "example" in content else file
        command += ["--header", f"Content-Type: {media}", "--data-binary", body]
        break
    return shlex.join([*command, target])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _header(description: str, kind: str) -> Extra:
    return {"description": description, "schema": {"type": kind}}


def _input_ref(model: type[BaseModel]) -> str:
    # Tags are sent in more forms than they are received in, so bodies have names of their own.
    return _REF.format(model=f"{model.__name__}In")
