"""Composes the Web API: routes, layers, and what they work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from knit_api.accounts.credentials import AUTHORIZATION
from knit_api.accounts.guard import guard, guard_extra
from knit_api.accounts.loopback import LoopbackHostMiddleware
from knit_api.accounts.middleware import AccountsMiddleware
from knit_api.deps import Deps
from knit_api.error_responses import ErrorMiddleware, on_http_exception, on_validation_error
from knit_api.measuring import EXTRA_API, MeasuringMiddleware, RouteMiddleware, set_route
from knit_api.openapi import document
from knit_api.routes import (
    accounts,
    adoption,
    completions,
    data,
    docs,
    health,
    hooks,
    imports,
    lineage,
    plans,
    runs,
    status,
    trials,
)
from knit_api.server.streams import cancel_and_wait
from knit_workflows import names


def create_app(deps: Deps, *, loopback_names_only: bool = False) -> FastAPI:
    """Gives the app; nothing is connected yet, and `deps` are closed with its lifespan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.ensure_future(deps.extra_apis.follow())
        try:
            yield
        finally:
            await cancel_and_wait(following)
            await deps.aclose()

    app = FastAPI(
        title="knit",
        summary="Runs containers when the data they need exists, and remembers what came from what",
        version=names.VERSION,
        openapi_url=document.PATH,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        dependencies=[Depends(guard)],
        exception_handlers={
            HTTPException: on_http_exception,
            RequestValidationError: on_validation_error,
        },
    )
    app.state.deps = deps
    for routes in (
        health,
        accounts,
        adoption,
        trials,
        imports,
        data,
        lineage,
        plans,
        runs,
        hooks,
        completions,
        status,
        docs,
    ):
        app.include_router(routes.router)
    document.install(app)
    _add_layers(app, loopback_names_only)
    return app


def _add_layers(app: FastAPI, loopback_names_only: bool) -> None:
    """Adds what every request passes; the last is the first to see it."""
    app.add_middleware(RouteMiddleware)
    app.add_middleware(TrailingSlashMiddleware)
    app.add_middleware(ExtraApiMiddleware)
    app.add_middleware(AccountsMiddleware)
    if loopback_names_only:
        app.add_middleware(LoopbackHostMiddleware)
    app.add_middleware(ErrorMiddleware)
    app.add_middleware(MeasuringMiddleware)


class ExtraApiMiddleware:
    """Forwards what belongs to an extra API, with its path as it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http":
            deps: Deps = scope["app"].state.deps
            match = deps.extra_apis.endpoints.find(scope["raw_path"].decode("latin-1"))
            if match is not None:
                set_route(scope, EXTRA_API)
                await guard_extra(deps.accounts, scope, match.endpoint.path)
                if deps.accounts.required:  # it held a credential of knit's
                    headers = [one for one in scope["headers"] if one[0] != AUTHORIZATION]
                    scope = {**scope, "headers": headers}
                await deps.extra_apis.forward(match, scope, receive, send, deps.stopping)
                return
        await self._app(scope, receive, send)


class TrailingSlashMiddleware:
    """Makes `/api/data/` and `/api/data` the same path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http" and scope["path"] != "/" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)
