"""Whether the process is up, whether it can work, and which knit it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Request, Response

from knit_api.deps import Deps, DepsOf
from knit_api.error_responses import RETRY_AFTER, error_response
from knit_api.openapi.document import failures
from knit_api.responses import json_response
from knit_workflows.wire.server import Health, Version

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health, responses=failures(503))
async def healthz(deps: DepsOf) -> Response:
    """Respond while the process is up; with 503 in the seconds before it leaves for a newer one."""
    return _leaves(deps) or json_response(Health(parts={}))


@router.get("/readyz", response_model=Health, responses=failures(503))
async def readyz(deps: DepsOf) -> Response:
    """Respond with 200 when store and Temporal are available.

    A refused file of hooks or extra APIs is told as `hooks` or `extra_apis`, and changes nothing
    about the status; neither do workers that follow different hooks files, told as `hooks` too.
    """
    if (leaves := _leaves(deps)) is not None:
        return leaves
    told: dict[str, str] = {}
    if deps.extra_apis.refusal:
        told["extra_apis"] = f"what was in force before stays: {deps.extra_apis.refusal}"

    async def store() -> None:
        opened = await deps.store.get()
        await opened.ping()
        if problem := (await opened.hooks.in_force()).problem:
            told["hooks"] = problem

    async def engine() -> None:
        await (await deps.transfers.get()).ping()

    states = await asyncio.gather(
        _probe(store(), deps.timeouts.ping), _probe(engine(), deps.timeouts.ping)
    )
    parts = dict(zip(("store", "engine"), states, strict=True))
    failing = {name: state for name, state in parts.items() if state != "ok"}
    if failing:
        return error_response(
            503,
            "; ".join(f"{name}: {state}" for name, state in (failing | told).items()),
            "wait until they answer; the API itself is up",
            headers={"Retry-After": RETRY_AFTER},
        )
    return json_response(Health(parts=parts | told))


@router.get("/api/version", response_model=Version)
async def show_version(request: Request) -> Response:
    """Say which knit this is."""
    return json_response(Version(version=request.app.version, upload_keys=True, sparse_files=True))


def _leaves(deps: Deps) -> Response | None:
    """Says why nobody shall be sent to this process any more, if that is so."""
    if deps.schema.reason is None:
        return None
    return error_response(
        503,
        f"this process is ending: {deps.schema.reason}",
        "repeat the request: a newer process answers it",
        headers={"Retry-After": RETRY_AFTER},
    )


async def _probe(ping: Awaitable[None], timeout: float) -> str:
    try:
        async with asyncio.timeout(timeout):
            await ping
    except Exception as error:  # noqa: BLE001  it is what is reported
        return str(error) or type(error).__name__
    return "ok"
