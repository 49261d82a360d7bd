"""`/api/plans`: find, register, show, activate and deactivate Plans."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response

from knit_api import openapi, queries
from knit_api.bodies import json_body, require_json
from knit_api.deps import ApiStore, DepsOf, StoreOf
from knit_api.mapping import plan_to_wire
from knit_api.openapi import failures, takes
from knit_api.responses import json_list_response, json_response
from knit_api.schemas.plans import Plan, PlanSpec
from knit_workflows.domain.plan_rules import parse_plan

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/plans", tags=["plans"])


@router.get(
    "",
    response_model=list[Plan],
    responses=failures(400, 503),
    openapi_extra={
        "parameters": [
            openapi.query("active", "`true` or `false`"),
            openapi.query("image", "`repository` or `repository:tag`, exactly"),
            openapi.query("in_tag", "`key:value`; one input has all of them", many=True),
            openapi.query("out_tag", "`key:value`; one output or the log has them", many=True),
        ]
    },
)
async def find_plans(request: Request, store: StoreOf) -> Response:
    """Find Plans, in the order of their ids; the built-in ones are among them."""
    found = await store.find_plans(queries.plan_query(request.query_params))
    return await json_list_response(found, plan_to_wire)


@router.post(
    "",
    response_model=Plan,
    responses=failures(400, 409, 413, 503),
    openapi_extra=takes(PlanSpec)
    | {
        "parameters": [
            openapi.query("confirm", "`true`: however many Runs it creates at once"),
        ]
    },
)
async def register_plan(request: Request, deps: DepsOf, store: StoreOf) -> Response:
    """Register a Plan. An equivalent one is a conflict, and its id is in `see`."""
    require_json(request)
    confirmed = queries.flag(request.query_params, "confirm")
    spec = parse_plan(await json_body(request))
    limit = None if confirmed else deps.new_runs
    plan = await store.register_plan(spec, new_runs_limit=limit)
    log.info(
        "Plan is registered",
        extra={"action": "plan_registered", "plan_id": plan.summary.plan_id},
    )
    return json_response(plan_to_wire(plan))


@router.get("/{plan_id}", response_model=Plan, responses=failures(404, 503))
async def show_plan(plan_id: str, store: StoreOf) -> Response:
    """Show a Plan with its neighbours."""
    return json_response(plan_to_wire(await store.plan(queries.plan_id(plan_id))))


@router.put("/{plan_id}/active", response_model=Plan, responses=failures(404, 503))
async def activate_plan(plan_id: str, store: StoreOf) -> Response:
    """Let the Plan's deactivated Runs wait for their turn again; idempotent."""
    return await _set_active(store, plan_id, True)


@router.delete("/{plan_id}/active", response_model=Plan, responses=failures(404, 503))
async def deactivate_plan(plan_id: str, store: StoreOf) -> Response:
    """Keep the Plan's waiting Runs from starting; idempotent."""
    return await _set_active(store, plan_id, False)


async def _set_active(store: ApiStore, plan_id: str, active: bool) -> Response:
    plan = await store.set_active(queries.plan_id(plan_id), active)
    log.info(
        "Plan is active" if active else "Plan is not active",
        extra={"action": "plan_active_set", "plan_id": plan_id, "active": active},
    )
    return json_response(plan_to_wire(plan))
