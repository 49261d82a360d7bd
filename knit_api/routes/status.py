"""`/api/status`: how the installation is."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from knit_api.deps import Deps, DepsOf, StoreOf
from knit_api.openapi.document import failures
from knit_api.responses import json_response
from knit_workflows.domain.errors import KnitError
from knit_workflows.inspection.status import disk_of, installation_status
from knit_workflows.temporal.queue_state import EngineState
from knit_workflows.wire.situation import InstallationStatus

router = APIRouter(prefix="/api/status", tags=["health"])


@router.get("", response_model=InstallationStatus, responses=failures(503))
async def show_status(request: Request, deps: DepsOf, store: StoreOf) -> Response:
    """Show what runs, waits and fails and why, the workers of each role, versions and disk.

    200 also if Temporal does not answer, or something else needs attention: `problems` says so.
    """
    whole = await deps.store.get()
    situation, hooks, engine = await asyncio.gather(
        store.situation.look(), whole.hooks.hooks(), _engine(deps)
    )
    status = installation_status(
        situation,
        engine,
        version=request.app.version,
        has_hooks=bool(hooks.before or hooks.after),
        disk=disk_of(deps.disk),
    )
    return json_response(status)


async def _engine(deps: Deps) -> EngineState:
    try:
        async with asyncio.timeout(deps.timeouts.ping):
            return await (await deps.transfers.get()).state()
    except (KnitError, TimeoutError) as error:
        reason = getattr(error, "reason", "") or "it has not answered in time"
        return EngineState(problem=f"Temporal does not answer: {reason}")
