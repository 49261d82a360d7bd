"""Measures requests, by method, route and class of status; traces them, if that is wanted."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knit_workflows import tracing
from knit_workflows.metrics.instruments import HTTP_DURATION

EXTRA_API: Final = "(extra API)"
"""The route of all requests that are forwarded."""
_NO_ROUTE: Final = "(none)"
"""That of requests which are refused before the path counts, or whose path nobody serves."""
_PROBES: Final = frozenset({"/healthz", "/readyz"})
"""A kubelet asks them all the time: no user waits for them, and most requests would be theirs."""
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_KEY: Final = "knit.measured"


class _Measured:
    """What is found out about a request while it is served."""

    __slots__ = ("answered_at", "route", "status")

    def __init__(self) -> None:
        self.route = _NO_ROUTE
        self.status = 0
        self.answered_at: float | None = None


class MeasuringMiddleware:
    """Measures how long each request takes until its response begins, but for probes.

    The response itself may go on for as long as somebody follows a log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        measured, begun = _Measured(), clock()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                measured.status, measured.answered_at = message["status"], clock()
            await send(message)

        with tracing.serving(scope["method"], scope["headers"]) as traced:
            try:
                await self._app({**scope, _KEY: measured}, receive, sending)
            finally:
                if traced is not None:
                    traced.name, traced.status = measured.route, measured.status
                self._measure(scope, measured, (measured.answered_at or clock()) - begun)

    def _measure(self, scope: Scope, measured: _Measured, taken: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        # Without a response it has become another protocol, or its client has left.
        status = f"{measured.status // 100}xx" if measured.status else "(none)"
        HTTP_DURATION.labels(method, measured.route, status).observe(taken)


class RouteMiddleware:
    """Notes which route has served a request; stands directly before the router."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        try:
            await self._app(scope, receive, send)
        finally:
            if path := getattr(scope.get("route"), "path", ""):
                set_route(scope, path)


def set_route(scope: Scope, route: str) -> None:
    """Says by which route a request is served, if it is measured."""
    if _KEY in scope:
        scope[_KEY].route = route
