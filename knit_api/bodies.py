"""Reads JSON bodies: of bounded size, with errors that name what is wrong and where."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from knit_api.errors import ClientDisconnected, HttpProblem
from knit_workflows.domain.errors import InvalidRequest

MAX_BYTES: Final = 4 << 20
JWT: Final = "application/jwt"

M = TypeVar("M", bound=BaseModel)


async def json_body(request: Request) -> Any:
    """Gives the decoded body.

    Raises:
        InvalidRequest: it is not JSON; with line and column.
        HttpProblem: it is too large (413), or did not come in time (408).
    """
    raw = await _read(request)
    try:
        return pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(
            f"bad request: the body is not JSON: {error}", advice="correct the JSON at that place"
        ) from error


async def model_body(request: Request, model: type[M]) -> M:
    """Gives the body as a wire type; raises InvalidRequest that names the keys at fault."""
    document = await json_body(request)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False)
        )
        raise InvalidRequest(
            f"bad request: {problems[:2000]}", advice=f"the keys are {', '.join(_keys(model))}"
        ) from error


async def token_body(request: Request) -> str:
    """Gives the text of a body that is a signed token; raises InvalidRequest if it is none."""
    given = request.headers.get("content-type", "")
    if given.strip().lower() != JWT:
        raise InvalidRequest(
            f"bad request: the Content-Type is {given[:80]!r}",
            advice=f"send exactly: Content-Type: {JWT}",
        )
    raw = (await _read(request)).strip()
    if not raw:
        raise InvalidRequest("bad request: the body is empty", advice="send the token")
    return raw.decode("ascii", "replace")


def require_json(request: Request) -> None:
    """Raises InvalidRequest unless the Content-Type is exactly JSON, without parameters."""
    given = request.headers.get("content-type", "")
    if given.strip().lower() != "application/json":
        raise InvalidRequest(
            f"bad request: the Content-Type is {given[:80]!r}",
            advice="send exactly: Content-Type: application/json",
        )


async def _read(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BYTES:
        raise _too_large()
    body = bytearray()
    within: float = request.app.state.deps.timeouts.body
    try:
        async with asyncio.timeout(within):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _too_large()
    except TimeoutError as error:
        raise HttpProblem(
            408, f"the body did not come within {within:g} s", "send it again, at once"
        ) from error
    except ClientDisconnect as error:
        raise ClientDisconnected("the client closed the connection within the body") from error
    return bytes(body)


def _too_large() -> HttpProblem:
    return HttpProblem(
        413, "the body is too large", f"a JSON body has at most {MAX_BYTES >> 20} MiB"
    )


def _keys(model: type[BaseModel]) -> list[str]:
    return [str(field.validation_alias or name) for name, field in model.model_fields.items()]
