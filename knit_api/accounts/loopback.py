"""Where accounts are off: only this machine may reach the API, and no web page through a browser.

Whoever reaches the API may do everything then. So it listens on a loopback address, and the `Host`
of a request must be a loopback name too: otherwise a web page in a browser on this machine could
call the API under a name of its own that resolves to 127.0.0.1 (DNS rebinding). Nor may the request
come from a page of elsewhere (`Origin`), which needs no such name to send one (CSRF).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from knit_api.error_responses import error_response
from knit_workflows.domain.accounts.secure_urls import is_loopback


class BindRefused(Exception):
    """Listening there would let others use knit; the message says what to do."""


def check_bind(host: str, *, required: bool) -> None:
    """Raises BindRefused when others could reach that address, and nobody must authenticate."""
    if not required and not is_loopback(host):
        raise BindRefused(
            f"accounts are off, so the API does not listen on {host!r}: use 127.0.0.1, or let "
            "callers authenticate (KNIT_ACCOUNTS__REQUIRED=true)"
        )


class LoopbackHostMiddleware:
    """Refuses requests whose `Host` is not a loopback name, or whose `Origin` is not of one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves or refuses one request."""
        if scope["type"] == "http" and not is_loopback(_host(_header(scope, b"host"))):
            refusal = error_response(
                403,
                "this API answers to loopback names only",
                "call it as http://127.0.0.1, or let its operator switch accounts on",
            )
            await refusal(scope, receive, send)
            return
        if scope["type"] == "http" and _is_foreign(_header(scope, b"origin")):
            refusal = error_response(
                403,
                "this API does not answer to web pages of elsewhere",
                "send the request without the header Origin, from a program of yours",
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_foreign(origin: str) -> bool:
    return bool(origin) and not is_loopback(_host_of_url(origin))


def _host_of_url(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _header(scope: Scope, wanted: bytes) -> str:
    found: bytes = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found.decode("latin-1")


def _host(name: str) -> str:
    if name.startswith("["):
        return name.partition("]")[0]
    return name.partition(":")[0]
