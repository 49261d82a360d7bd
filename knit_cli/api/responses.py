"""Turns responses and network errors into values, or into errors that users understand."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from knit_cli.api.authorization import ADVICE_ON_REFUSAL
from knit_cli.api.intermediaries import (
    ADVICE,
    advice_on_redirect,
    is_called_a_web_page,
    is_web_page,
    web_page_detail,
)
from knit_cli.api.retry import retry_after
from knit_cli.api.tls import explain_ssl_error
from knit_cli.errors import ApiBroken, ApiRefused, ApiUnreachable, ConnectionCut
from knit_workflows.wire.errors import ErrorBody, ErrorDetail

T = TypeVar("T")

_MAX_REASON_CHARACTERS = 2000
_NOT_NOW = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


@contextmanager
def network_errors(api_root: str, where: str) -> Iterator[None]:
    """Translates the errors of httpx; `where` names the file with the address."""
    try:
        yield
    except httpx.ConnectError as cause:
        raise _no_connection(cause, api_root, where) from cause
    except httpx.ConnectTimeout as cause:
        raise ApiUnreachable(
            f"the API at {api_root} does not answer",
            reason="the connection was not accepted in time",
            advice=_start_or_check(where),
        ) from cause
    except httpx.TimeoutException as cause:
        raise ApiUnreachable(
            f"the API at {api_root} did not answer in time",
            advice="try again later; if it persists, check the API's log",
        ) from cause
    except (httpx.NetworkError, httpx.RemoteProtocolError) as cause:
        raise ConnectionCut(
            f"the connection to the API at {api_root} was cut",
            reason=str(cause) or None,
            advice="try again; if it happens again, check the API's log",
        ) from cause
    except (httpx.HTTPError, httpx.InvalidURL) as cause:
        raise ApiUnreachable(
            f"cannot connect to the API at {api_root}",
            reason=str(cause),
            advice=f"check apiRoot in {where} and the proxy settings",
        ) from cause


def _no_connection(cause: httpx.ConnectError, api_root: str, where: str) -> ApiUnreachable:
    error: BaseException | None = cause
    while error is not None:
        if isinstance(error, ssl.SSLError):
            reason, advice = explain_ssl_error(error, where)
            return ApiUnreachable(
                f"the API at {api_root} cannot be trusted", reason=reason, advice=advice
            )
        error = error.__cause__ or error.__context__
    refused = ConnectionCut(
        f"the API at {api_root} does not answer",
        reason=str(cause),
        advice=_start_or_check(where),
    )
    refused.safe_to_retry = True
    return refused


def _start_or_check(where: str) -> str:
    return f"start it with `knit dev up`, or check apiRoot in {where}"


def raise_for_status(response: httpx.Response, failure: str) -> None:
    """Raises ApiRefused or ApiBroken unless the status is 2xx; the body must have been read."""
    if response.is_success:
        return
    detail = detail_of(response)
    # The API does not know where the token came from.
    ours = None if is_web_page(response) else response.extensions.get(ADVICE_ON_REFUSAL)
    kind = ApiRefused if response.is_client_error else ApiBroken
    refused = kind(
        failure,
        status=response.status_code,
        reason=detail.reason,
        advice=ours or detail.advice or _default_advice(response),
        see=detail.see,
    )
    refused.retry_after = retry_after(response)
    raise refused


def _default_advice(response: httpx.Response) -> str:
    wait = retry_after(response)
    if wait is not None and response.status_code in _NOT_NOW:
        return f"try again in {wait:g} s"
    if response.status_code in ADVICE:
        return ADVICE[response.status_code]
    if response.is_redirect:
        return advice_on_redirect(response)
    if response.is_server_error:
        return "check the API's log"
    return "correct the command, and try again"


def detail_of(response: httpx.Response) -> ErrorDetail:
    """Reads an error body: the declared shape, `{"message": text}`, plain text, or nothing.

    A web page is not the API's; its message comes without markup.
    """
    if is_web_page(response):
        return web_page_detail(response)
    try:
        body: Any = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        message = body.get("message", body)
        if isinstance(message, str):
            return ErrorDetail(reason=message)
        try:
            return ErrorBody.model_validate({"message": message}).message
        except ValidationError:
            pass  # unknown shape: its text is the best reason available
    text = response.text.strip()[:_MAX_REASON_CHARACTERS]
    return ErrorDetail(
        reason=text or f"HTTP status {response.status_code} {response.reason_phrase}"
    )


def is_framed(response: httpx.Response) -> bool:
    """Tells whether the head says where the body ends; otherwise a cut looks like the end."""
    return bool({"content-length", "transfer-encoding"} & response.headers.keys())


def refuse_web_page(response: httpx.Response, failure: str) -> None:
    """Raises ApiBroken for a web page that came with success, before it is taken for content."""
    if is_called_a_web_page(response):
        raise _web_page(response, failure)


def _web_page(response: httpx.Response, failure: str) -> ApiBroken:
    page = web_page_detail(response)
    status = response.status_code
    return ApiBroken(failure, status=status, reason=page.reason, advice=page.advice)


def parsed(response: httpx.Response, kind: type[T], failure: str) -> T:
    """Parses the body as a wire type, or as a list of such.

    Raises:
        ApiBroken: the body has another shape.
        ConnectionCut: the body was cut, which always shows, because no prefix of a JSON document
            is valid.
    """
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as cause:
        if is_web_page(response):
            raise _web_page(response, failure) from cause
        first = cause.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid" and not is_framed(response):
            raise ConnectionCut(
                "the API's response was cut",
                reason=f"{first['msg']}, although the connection was closed cleanly",
                advice="try again; if it happens again, look for a proxy that cuts connections",
            ) from cause
        location = ".".join(str(part) for part in first["loc"]) or "the body"
        raise ApiBroken(
            failure,
            status=response.status_code,
            reason=f"the response is not one of knit's API: {location}: {first['msg']}",
            advice="check that apiRoot in the profile is the address of a knit API (…/api)",
        ) from cause
