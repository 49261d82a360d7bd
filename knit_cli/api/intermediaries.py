"""Tells what a proxy, a load balancer or a login page says from what knit's API does.

The API answers in JSON, errors too. A web page, and what only a proxy asks for, is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape

import httpx

from knit_workflows.wire.errors import ErrorDetail

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MAX_TITLE_CHARACTERS = 200

_PROXY = "the proxy or gateway between here and the API"
ADVICE: Mapping[int, str] = {
    httpx.codes.UNAUTHORIZED: "ask your knit's administrator for access",
    httpx.codes.FORBIDDEN: "ask your knit's administrator for access",
    httpx.codes.NOT_FOUND: "check the id, and apiRoot in the profile",
    httpx.codes.METHOD_NOT_ALLOWED: "the API may be older than this knit; use what it knows",
    httpx.codes.PROXY_AUTHENTICATION_REQUIRED: (
        "write user and password into the proxy's variable: "
        "HTTP_PROXY=http://USER:PASSWORD@HOST:PORT"
    ),
    httpx.codes.REQUEST_TIMEOUT: f"raise the time-outs of {_PROXY}, or try again",
    httpx.codes.CONFLICT: "look at its present state, then decide anew",
    httpx.codes.REQUEST_ENTITY_TOO_LARGE: (
        f"have the size that {_PROXY} allows raised (nginx: client_max_body_size 0), "
        "or use an address of the API that does not lead through it"
    ),
    httpx.codes.REQUEST_URI_TOO_LONG: f"ask for less at once, or raise the limits of {_PROXY}",
    httpx.codes.UNSUPPORTED_MEDIA_TYPE: "the API may be older than this knit; use what it knows",
    httpx.codes.MISDIRECTED_REQUEST: "check the host name of apiRoot in the profile",
    httpx.codes.TOO_MANY_REQUESTS: "ask less often: try again later",
    httpx.codes.REQUEST_HEADER_FIELDS_TOO_LARGE: f"raise the size of headers of {_PROXY}",
    httpx.codes.BAD_GATEWAY: f"see that the API runs ({_PROXY} got no answer), or try again later",
    httpx.codes.SERVICE_UNAVAILABLE: "try again later",
    httpx.codes.GATEWAY_TIMEOUT: f"try again later, or raise the time-outs of {_PROXY}",
    httpx.codes.INSUFFICIENT_STORAGE: "ask your knit's administrator to make room for Data",
    httpx.codes.NETWORK_AUTHENTICATION_REQUIRED: "log in to this network with a browser first",
}
"""What to do where the answer does not say so: it is an older server's, or not knit's at all."""
_USUAL_ADVICE = (
    "check that apiRoot in the profile is the address of a knit API (…/api), "
    "and that no proxy or login page is on the way"
)


def is_web_page(response: httpx.Response) -> bool:
    """Says whether somebody else than knit's API has answered; the body has been read."""
    kind: str = response.headers.get("Content-Type", "")
    return (
        kind.startswith(("text/html", "application/xhtml"))
        or response.content.lstrip()[:1] == b"<"
        or response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
    )


def web_page_detail(response: httpx.Response) -> ErrorDetail:
    """Gives what that answer says, without its markup, and what to do about it."""
    server: str = response.headers.get("Server") or response.headers.get("Via") or ""
    who = f" ({server})" if server else ""
    says = f"HTTP status {response.status_code} {response.reason_phrase}".strip()
    title = _title(response.text)
    if title and title not in says and response.reason_phrase not in title:
        says = f"{says}, {title}"
    return ErrorDetail(
        reason="the answer is not what knit's API says, "
        f"but of something on the way to it{who}: {says}",
        advice=_advice(response),
    )


def _advice(response: httpx.Response) -> str:
    if response.is_redirect:
        return f"check apiRoot in the profile: it leads to {response.headers.get('Location')}"
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"check apiRoot in the profile; else {ADVICE[response.status_code]}"
    return ADVICE.get(response.status_code, _USUAL_ADVICE)


def _title(text: str) -> str:
    found = _TITLE.search(text)
    return " ".join(unescape(found[1]).split())[:_MAX_TITLE_CHARACTERS] if found else ""
