"""`/api/trials`: what the back-end would refuse of a Plan."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from knit_api.bodies import json_body, require_json
from knit_api.deps import DepsOf
from knit_api.openapi.document import failures, takes
from knit_api.responses import json_response
from knit_workflows.domain.plans.options import require_allowed
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.wire.plans import PlanSpec, PlanTrial

router = APIRouter(prefix="/api/trials", tags=["plans"])


@router.post(
    "",
    response_model=PlanTrial,
    responses=failures(400, 413, 503),
    openapi_extra=takes(PlanSpec),
)
async def try_plan(request: Request, deps: DepsOf) -> Response:
    """Ask the back-end what it would refuse of a Plan's Runs; nothing is registered or started.

    On Kubernetes the API server checks claims, Job and pod in dry runs. Refusals are the result,
    not an error; a Plan that breaks a rule of knit's is an error.
    """
    require_json(request)
    document = await json_body(request)
    require_allowed(parse_plan(document).options.pod, deps.plan_pod_keys)
    client = await deps.transfers.get()
    await client.ping()
    result = await client.try_plan(document)
    return json_response(
        {
            "refusals": result.refusals,
            "warnings": result.warnings,
            "unchecked": result.unchecked,
        }
    )
