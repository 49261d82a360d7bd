"""Whether the process is up, whether it can work, and which knit it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Request, Response

from knit_api.deps import DepsOf
from knit_api.error_responses import RETRY_AFTER, error_response
from knit_api.openapi.document import failures
from knit_api.responses import json_response
from knit_workflows.wire.health import Health
from knit_workflows.wire.version import Version

PROBE_SECONDS = 3.0

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Answer while the process is up."""
    return json_response(Health(parts={}))


@router.get("/readyz", response_model=Health, responses=failures(503))
async def readyz(deps: DepsOf) -> Response:
    """Answer 200 when the store and Temporal do."""

    async def store() -> None:
        await (await deps.store.get()).ping()

    async def engine() -> None:
        await (await deps.transfers.get()).ping()

    answers = await asyncio.gather(_probe(store()), _probe(engine()))
    parts = dict(zip(("store", "engine"), answers, strict=True))
    failing = {name: answer for name, answer in parts.items() if answer != "ok"}
    if failing:
        return error_response(
            503,
            "; ".join(f"{name}: {answer}" for name, answer in failing.items()),
            "wait until they answer; the API itself is up",
            headers={"Retry-After": RETRY_AFTER},
        )
    return json_response(Health(parts=parts))


@router.get("/api/version", response_model=Version)
async def show_version(request: Request) -> Response:
    """Say which knit this is."""
    return json_response(Version(version=request.app.version, upload_keys=True, sparse_files=True))


async def _probe(asking: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await asking
    except Exception as error:  # noqa: BLE001  the answer is that it does not work
        return str(error) or type(error).__name__
    return "ok"
