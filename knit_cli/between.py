"""Tells what a proxy, a load balancer or a login page says from what knit's API does.

The API answers in JSON, errors too. A web page, and what only a proxy asks for, is somebody else's.
"""

import re
from collections.abc import Mapping
from html import unescape

import httpx

from knit_api.schemas.errors import ErrorDetail

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MOST_TITLE_CHARACTERS = 200

_LATER = "try again later; if it stays so, tell whoever runs the proxy or the load balancer"
_ADVICE: Mapping[int, str] = {
    httpx.codes.PROXY_AUTHENTICATION_REQUIRED: (
        "write user and password into the proxy's variable: "
        "HTTP_PROXY=http://USER:PASSWORD@HOST:PORT"
    ),
    httpx.codes.REQUEST_ENTITY_TOO_LARGE: (
        "have whoever runs it raise the size it allows (nginx: client_max_body_size 0), "
        "or use an address of the API that does not lead through it"
    ),
    httpx.codes.TOO_MANY_REQUESTS: _LATER,
    httpx.codes.INTERNAL_SERVER_ERROR: _LATER,
    httpx.codes.BAD_GATEWAY: _LATER,
    httpx.codes.SERVICE_UNAVAILABLE: _LATER,
    httpx.codes.GATEWAY_TIMEOUT: _LATER,
}
_USUAL_ADVICE = (
    "check that apiRoot in the profile is the address of a knit API (…/api), "
    "and that no proxy or login page is on the way"
)


def is_page(answer: httpx.Response) -> bool:
    """Says whether somebody else than knit's API has answered; the body has been read."""
    kind: str = answer.headers.get("Content-Type", "")
    return (
        kind.startswith(("text/html", "application/xhtml"))
        or answer.content.lstrip()[:1] == b"<"
        or answer.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
    )


def page_detail(answer: httpx.Response) -> ErrorDetail:
    """Gives what that answer says, without its markup, and what to do about it."""
    server: str = answer.headers.get("Server") or answer.headers.get("Via") or ""
    who = f" ({server})" if server else ""
    says = f"HTTP status {answer.status_code} {answer.reason_phrase}".strip()
    title = _title(answer.text)
    if title and title not in says and answer.reason_phrase not in title:
        says = f"{says}, {title}"
    return ErrorDetail(
        reason="the answer is not what knit's API says, "
        f"but of something on the way to it{who}: {says}",
        advice=_ADVICE.get(answer.status_code, _USUAL_ADVICE),
    )


def _title(text: str) -> str:
    found = _TITLE.search(text)
    return " ".join(unescape(found[1]).split())[:_MOST_TITLE_CHARACTERS] if found else ""
