"""Recognizes responses of proxies, load balancers and login pages in front of knit's API.

The API always answers in JSON. A web page, or a status that only proxies use, comes from an
intermediary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape

import httpx

from knit_workflows.wire.errors import ErrorDetail

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MAX_TITLE_CHARACTERS = 200

_OTHER_VERSION = "the API may be of another version than this knit; upgrade the older one"
_PROXY = "the proxy or gateway between here and the API"
ADVICE: Mapping[int, str] = {
    httpx.codes.UNAUTHORIZED: "ask your knit's administrator for access",
    httpx.codes.FORBIDDEN: "ask your knit's administrator for access",
    httpx.codes.NOT_FOUND: "check the id, and apiRoot in the profile",
    httpx.codes.METHOD_NOT_ALLOWED: _OTHER_VERSION,
    httpx.codes.PROXY_AUTHENTICATION_REQUIRED: (
        "put user and password into the proxy's variable: HTTP_PROXY=http://USER:PASSWORD@HOST:PORT"
    ),
    httpx.codes.REQUEST_TIMEOUT: f"raise the timeouts of {_PROXY}, or try again",
    httpx.codes.CONFLICT: "check its current state, then decide",
    httpx.codes.REQUEST_ENTITY_TOO_LARGE: (
        f"have the body size limit of {_PROXY} raised (nginx: client_max_body_size 0), "
        "or use an address of the API that bypasses it"
    ),
    httpx.codes.REQUEST_URI_TOO_LONG: f"ask for less at once, or raise the limits of {_PROXY}",
    httpx.codes.UNSUPPORTED_MEDIA_TYPE: _OTHER_VERSION,
    httpx.codes.MISDIRECTED_REQUEST: "check the host name of apiRoot in the profile",
    httpx.codes.TOO_MANY_REQUESTS: "send fewer requests; try again later",
    httpx.codes.REQUEST_HEADER_FIELDS_TOO_LARGE: f"raise the header size limit of {_PROXY}",
    httpx.codes.BAD_GATEWAY: (
        f"check that the API runs ({_PROXY} got no response), or try again later"
    ),
    httpx.codes.SERVICE_UNAVAILABLE: "try again later",
    httpx.codes.GATEWAY_TIMEOUT: f"try again later, or raise the timeouts of {_PROXY}",
    httpx.codes.INSUFFICIENT_STORAGE: "ask your knit's administrator to free space for Data",
    httpx.codes.NETWORK_AUTHENTICATION_REQUIRED: "log in to this network with a browser first",
}
"""Advice by status, for responses that contain none."""
_DEFAULT_ADVICE = (
    "check that apiRoot in the profile is the address of a knit API (…/api), "
    "and that no proxy or login page is in between"
)


def is_called_a_web_page(response: httpx.Response) -> bool:
    """Tells the same by the header alone, of a response whose body may begin with anything."""
    kind: str = response.headers.get("Content-Type", "")
    return kind.startswith(("text/html", "application/xhtml"))


def is_web_page(response: httpx.Response) -> bool:
    """Tells whether an intermediary responded instead of the API; the body must have been read."""
    return (
        is_called_a_web_page(response)
        or response.content.lstrip()[:1] == b"<"
        or response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
    )


def web_page_detail(response: httpx.Response) -> ErrorDetail:
    """Gives the message of such a response without its markup, and advice; the title only of a body
    that has been read."""
    server: str = response.headers.get("Server") or response.headers.get("Via") or ""
    who = f" ({server})" if server else ""
    says = f"HTTP status {response.status_code} {response.reason_phrase}".strip()
    title = _title(response.text) if response.is_closed else ""
    if title and title not in says and response.reason_phrase not in title:
        says = f"{says}, {title}"
    return ErrorDetail(
        reason=f"the response is not from knit's API, but from something in between{who}: {says}",
        advice=_advice(response),
    )


def advice_on_redirect(response: httpx.Response) -> str:
    """Says where a redirect leads; knit follows none, since it would take the token along."""
    return f"check apiRoot in the profile: it redirects to {response.headers.get('Location')}"


def _advice(response: httpx.Response) -> str:
    if response.is_redirect:
        return advice_on_redirect(response)
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"check apiRoot in the profile; else {ADVICE[response.status_code]}"
    return ADVICE.get(response.status_code, _DEFAULT_ADVICE)


def _title(text: str) -> str:
    found = _TITLE.search(text)
    return " ".join(unescape(found[1]).split())[:_MAX_TITLE_CHARACTERS] if found else ""
