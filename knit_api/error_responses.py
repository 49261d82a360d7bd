"""Turns every failure into a response: one table of statuses, one shape of the body."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knit_api.errors import ClientDisconnected, HttpProblem
from knit_api.responses import json_response
from knit_api.server.trailers import ResponseAborted
from knit_workflows.domain import errors as domain
from knit_workflows.wire.errors import ErrorBody, ErrorDetail

log = logging.getLogger(__name__)

V = TypeVar("V")

STATUS: Final[Mapping[type[Exception], int]] = {
    domain.InvalidRequest: 400,
    domain.NotFound: 404,
    domain.Conflict: 409,
    domain.StorageFull: 507,
    domain.StoreFull: 507,
    domain.EngineFull: 507,
    domain.Unavailable: 503,
    domain.BackendRejected: 500,
    domain.KnitError: 500,
}
"""By class; any other class has the status of its nearest ancestor."""

_ADVICE: Final[Mapping[type[Exception], str]] = {
    domain.InvalidRequest: "correct the request and send it again",
    domain.DataNotFound: "list what there is with `knit data find`",
    domain.PlanNotFound: "list what there is with `knit plan find`",
    domain.RunNotFound: "list what there is with `knit run find`",
    domain.DeliveryNotFound: "list what there is with `knit hook deliveries`",
    domain.NotFound: "check the id",
    domain.UploadInProgress: "wait some seconds, then repeat the request with the same key",
    domain.IdempotencyKeyConsumed: "upload again with another key",
    domain.Conflict: "look at its present state, then decide anew",
    domain.StorageFull: "make room where Data is kept, then try again",
    domain.StoreFull: "make room on the disk of the database, then try again",
    domain.EngineFull: "make room on the disk of Temporal's database, then try again",
    domain.Unavailable: "try again in some seconds",
    domain.KnitError: "ask the operator of this knit; its logs say more",
}
"""What to do, unless the error itself says so."""

_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

RETRY_AFTER: Final = "2"
"""Seconds, for a 503 and all else that only needs time."""
RETRY_BUSY_AFTER: Final = "5"
"""The same under overload, to which earlier retries would only add."""


def response_for(error: Exception) -> Response:
    """Gives the response for a failure; an unknown exception becomes a bare 500."""
    if isinstance(error, domain.KnitError):
        status = nearest(STATUS, error, 500)
        advice = error.advice or nearest(_ADVICE, error, "")
        needs_time = status == 503 or isinstance(error, domain.UploadInProgress)
        seconds = RETRY_BUSY_AFTER if isinstance(error, domain.Busy) else RETRY_AFTER
        headers = {"Retry-After": seconds} if needs_time else None
        return error_response(status, error.reason, advice, error.see, headers)
    if isinstance(error, HttpProblem):
        return error_response(error.status, error.reason, error.advice, headers=error.headers)
    return error_response(500, "unexpected error", _ADVICE[domain.KnitError])


def nearest(table: Mapping[type[Exception], V], error: Exception, default: V) -> V:
    """Looks up the class of an error, then its ancestors, nearest first."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), default)


def error_response(
    status: int,
    reason: str,
    advice: str = "",
    see: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Gives a response of the declared shape `{"message": {"reason", "advice", "see"}}`."""
    detail = ErrorDetail(reason=reason, advice=advice or None, see=see or None)
    return json_response(ErrorBody(message=detail), status=status, headers=headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Responds to what the router raises: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    known = {404: "check the path; /api/openapi.json lists them", 405: "see the header Allow"}
    advice = known.get(error.status_code, _ADVICE[domain.InvalidRequest])
    # The router names the methods of the first route of that path only; each method has its own.
    headers = _allowed(request) if error.status_code == 405 else error.headers
    return error_response(error.status_code, str(error.detail), advice, headers=headers)


def _allowed(request: Request) -> Mapping[str, str]:
    asked = ({**request.scope, "method": method} for method in _METHODS)
    allowed = [
        scope["method"]
        for scope in asked
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]
    return {"Allow": ", ".join(allowed)}


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Responds to a query or path that FastAPI itself refuses."""
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(map(_problem, error.errors()))
    return error_response(400, f"bad request: {problems}", _ADVICE[domain.InvalidRequest])


def _problem(problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"][1:])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


class ErrorMiddleware:
    """The outermost layer: no exception leaves it but ResponseAborted, for a started response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnected as error:
            _log_line(scope, error, logging.INFO, "client_disconnected")
            raise ResponseAborted from error
        except ResponseAborted:
            raise
        except Exception as error:  # the border: nothing outside can respond to it
            if started:
                _log_line(scope, error, logging.WARNING, "response_aborted")
                raise ResponseAborted from error
            response = response_for(error)
            if response.status_code >= 500:
                _log_line(scope, error, logging.ERROR, "request_failed", response.status_code)
            await response(scope, receive, send)


def _log_line(
    scope: Scope, error: BaseException, level: int, action: str, status: int | None = None
) -> None:
    # A known error explains itself; only that of an unknown one is worth a traceback.
    is_known = isinstance(error, domain.KnitError | HttpProblem | ClientDisconnected)
    log.log(
        level,
        "%s %s: %s",
        scope["method"],
        scope["path"],
        error or type(error).__name__,
        extra={"action": action, "status": status},
        exc_info=None if is_known else error,
    )
