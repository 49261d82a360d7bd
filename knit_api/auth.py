"""Access control: the one place that decides who may call the API.

Accounts, tokens and roles come with the deployment on clusters. Until then whoever reaches the API
may do everything, so only this machine may reach it: it listens on a loopback address, unless its
operator declares that something else guards it (`--insecure-bind`). On loopback the `Host` of a
request must be a loopback name too: otherwise a web page in a browser on this machine could call
the API under a name of its own that resolves to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from knit_api.error_responses import error_response


class BindRefused(Exception):
    """Listening there would let others use knit; the message says what to do."""


def check_bind(host: str, *, insecure: bool) -> None:
    """Raises BindRefused when others than this machine could reach that address."""
    if not insecure and not is_loopback(host):
        raise BindRefused(
            f"the API has no authentication yet, so it does not listen on {host!r}: use 127.0.0.1, "
            "or --insecure-bind if something else decides who may reach it"
        )


def is_loopback(host: str) -> bool:
    """Says whether a name or address, without port, is this machine's own."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class LoopbackHostMiddleware:
    """Refuses requests whose `Host` is not a loopback name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves or refuses one request."""
        if scope["type"] == "http" and not is_loopback(_host(scope)):
            refusal = error_response(
                403,
                "this API answers to loopback names only",
                "call it as http://127.0.0.1, or let its operator start it with --insecure-bind",
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _host(scope: Scope) -> str:
    value: bytes = next((value for name, value in scope["headers"] if name == b"host"), b"")
    name = value.decode("latin-1")
    if name.startswith("["):
        return name.partition("]")[0]
    return name.partition(":")[0]
