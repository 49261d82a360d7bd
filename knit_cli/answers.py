"""Turns what the network and the API answer into values, or into errors a user understands."""

import html
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from knit_api.schemas.errors import ErrorBody, ErrorDetail
from knit_cli.between import is_page, page_detail
from knit_cli.errors import ApiBroken, ApiRefused, ApiUnreachable, ConnectionCut
from knit_cli.retry import retry_after
from knit_cli.trust import why_refused

T = TypeVar("T")

_MOST_REASON_CHARACTERS = 2000


@contextmanager
def network_errors(api_root: str, where: str) -> Iterator[None]:
    """Translates what httpx raises; `where` names the file the address comes from."""
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
            advice="try again later; if it stays so, look at the API's own log",
        ) from cause
    except (httpx.NetworkError, httpx.RemoteProtocolError) as cause:
        raise ConnectionCut(
            f"the connection to the API at {api_root} was cut",
            reason=str(cause) or None,
            advice="try again; if it happens again, look at the API's own log",
        ) from cause
    except (httpx.HTTPError, httpx.InvalidURL) as cause:
        raise ApiUnreachable(
            f"cannot talk to the API at {api_root}",
            reason=str(cause),
            advice=f"check apiRoot in {where} and the proxy settings",
        ) from cause


def _no_connection(cause: httpx.ConnectError, api_root: str, where: str) -> ApiUnreachable:
    error: BaseException | None = cause
    while error is not None:
        if isinstance(error, ssl.SSLError):
            reason, advice = why_refused(error, where)
            return ApiUnreachable(
                f"the API at {api_root} cannot be trusted", reason=reason, advice=advice
            )
        error = error.__cause__ or error.__context__
    refused = ConnectionCut(
        f"the API at {api_root} does not answer",
        reason=str(cause),
        advice=_start_or_check(where),
    )
    refused.harmless = True
    return refused


def _start_or_check(where: str) -> str:
    return f"start it with `knit dev up`, or check apiRoot in {where}"


def refuse_unless_ok(answer: httpx.Response, failing: str) -> None:
    """Raises ApiRefused or ApiBroken for any answer but 2xx; the body has been read then."""
    if answer.is_success:
        return
    detail = page_detail(answer) if is_page(answer) else _detail(answer)
    kind = ApiRefused if answer.is_client_error else ApiBroken
    refused = kind(
        failing,
        status=answer.status_code,
        reason=detail.reason,
        advice=detail.advice or _usual_advice(answer),
        see=detail.see,
    )
    refused.retry_after = retry_after(answer)
    raise refused


_PROXY = "the proxy or gateway between here and the API"
_USUAL_ADVICE: Mapping[int, str] = {
    httpx.codes.UNAUTHORIZED: "ask your knit's administrator for access",
    httpx.codes.FORBIDDEN: "ask your knit's administrator for access",
    httpx.codes.NOT_FOUND: "check the id, and apiRoot in the profile",
    httpx.codes.METHOD_NOT_ALLOWED: "the API may be older than this knit; use what it knows",
    httpx.codes.PROXY_AUTHENTICATION_REQUIRED: (
        "give the name and password of the proxy in HTTPS_PROXY or HTTP_PROXY"
    ),
    httpx.codes.REQUEST_TIMEOUT: f"raise the time-outs of {_PROXY}, or try again",
    httpx.codes.CONFLICT: "look at its present state, then decide anew",
    httpx.codes.REQUEST_ENTITY_TOO_LARGE: f"raise the size of bodies that {_PROXY} lets through",
    httpx.codes.REQUEST_URI_TOO_LONG: f"ask for less at once, or raise the limits of {_PROXY}",
    httpx.codes.UNSUPPORTED_MEDIA_TYPE: "the API may be older than this knit; use what it knows",
    httpx.codes.MISDIRECTED_REQUEST: "check the host name of apiRoot in the profile",
    httpx.codes.TOO_MANY_REQUESTS: "ask less often: try again later",
    httpx.codes.REQUEST_HEADER_FIELDS_TOO_LARGE: f"raise the size of headers of {_PROXY}",
    httpx.codes.BAD_GATEWAY: f"see that the API runs: {_PROXY} got no answer from it",
    httpx.codes.SERVICE_UNAVAILABLE: "try again later",
    httpx.codes.GATEWAY_TIMEOUT: f"try again, or raise the time-outs of {_PROXY}",
    httpx.codes.INSUFFICIENT_STORAGE: "ask your knit's administrator to make room for Data",
    httpx.codes.NETWORK_AUTHENTICATION_REQUIRED: "log in to this network with a browser first",
}
"""What to do where the answer does not say so: it is an older server's, or not knit's at all."""


def _usual_advice(answer: httpx.Response) -> str:
    status = answer.status_code
    if answer.is_redirect:
        return f"check apiRoot in the profile: it leads to {answer.headers.get('Location')}"
    wait = retry_after(answer)
    if wait is not None and status in (429, 503):
        return f"try again in {wait:g} s"
    if status in _USUAL_ADVICE:
        return _USUAL_ADVICE[status]
    if _is_page(answer):
        return f"check apiRoot in the profile, and {_PROXY}"
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return "look at the API's own log"
    return "correct the command, and try again"


def _is_page(answer: httpx.Response) -> bool:
    return "html" in answer.headers.get("Content-Type", "").lower()


def _page_words(answer: httpx.Response) -> str:
    """Gives who says what on a page that was meant for a browser."""
    title = re.search(r"(?is)<(title|h1)[^>]*>(.*?)</", answer.text)
    said = " ".join(html.unescape(title[2]).split()) if title else ""
    server = answer.headers.get("Server")
    who = f"what answers is a web page{f' of {server}' if server else ''}, not knit's API"
    status = f"{answer.status_code} {answer.reason_phrase}".strip()
    return f"{who}: {said[:200] or status}"


def _detail(answer: httpx.Response) -> ErrorDetail:
    """Reads the declared shape, and copes with `{"message": text}`, with text and with nothing."""
    try:
        body: Any = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        message = body.get("message", body)
        if isinstance(message, str):
            return ErrorDetail(reason=message)
        try:
            return ErrorBody.model_validate({"message": message}).message
        except ValidationError:
            pass  # no shape we know: its text is the best reason there is
    if _is_page(answer):
        return ErrorDetail(reason=_page_words(answer))
    text = answer.text.strip()[:_MOST_REASON_CHARACTERS]
    return ErrorDetail(reason=text or f"HTTP status {answer.status_code} {answer.reason_phrase}")


def parsed(answer: httpx.Response, shape: TypeAdapter[T], failing: str) -> T:
    """Gives the body as the wire type; raises ApiBroken when it is not one."""
    try:
        return shape.validate_json(answer.content)
    except ValidationError as cause:
        if is_page(answer):
            page = page_detail(answer)
            raise ApiBroken(
                failing, status=answer.status_code, reason=page.reason, advice=page.advice
            ) from cause
        first = cause.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise ApiBroken(
            failing,
            status=answer.status_code,
            reason=f"the answer is not what knit's API says: {place}: {first['msg']}",
            advice="check that apiRoot in the profile is the address of a knit API (…/api)",
        ) from cause
