"""`/api/plans`: find, register, show and change Plans."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import APIRouter, Request, Response

from knit_api import paging, queries
from knit_api.bodies import json_body, require_json
from knit_api.deps import DepsOf, StoreOf
from knit_api.openapi import document
from knit_api.openapi.document import failures, takes
from knit_api.paging import page_response
from knit_api.responses import json_response
from knit_workflows.domain.errors import TooManyRuns
from knit_workflows.domain.plans.changes import (
    parse_annotation_change,
    parse_priority_change,
    parse_resource_change,
    parse_service_account_change,
)
from knit_workflows.domain.plans.model import PlanDetail
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.ports import ApiStore
from knit_workflows.wire.mapping import ToWire, preview_to_wire
from knit_workflows.wire.plans import (
    CONFIRM,
    AnnotationsChange,
    Plan,
    PlanPreview,
    PlanSpec,
    PriorityChange,
    ResourcesChange,
    ServiceAccountChange,
)

log = logging.getLogger(__name__)

PREVIEWED: Final = 100
"""How many Runs a dry run gives one by one."""

router = APIRouter(prefix="/api/plans", tags=["plans"])


@router.get(
    "",
    response_model=list[Plan],
    responses=paging.RESPONSES | failures(400, 503),
    openapi_extra={
        "parameters": [
            document.query("active", "`true` or `false`", schema=document.FLAG, example="true"),
            document.query(
                "image",
                "`repository` or `repository:tag`, exactly",
                example="localhost:5000/train:v2",
            ),
            document.query(
                "in_tag", "`key:value`; one input has all of them", many=True, schema=document.TAG
            ),
            document.query(
                "out_tag",
                "`key:value`; one output or the log has them",
                many=True,
                schema=document.TAG,
            ),
            *paging.PARAMETERS,
        ]
    },
)
async def find_plans(request: Request, store: StoreOf) -> Response:
    """Find Plans, in the order of their ids; the built-in ones are among them."""
    query, page = queries.plan_query(request.query_params), queries.page(request.query_params)
    found = await store.plans.find(query, **paging.bounds(page))
    return await page_response(request, page, found, ToWire().plan, paging.plan_cursor)


@router.post(
    "",
    response_model=Plan | PlanPreview,
    responses=failures(400, 409, 413, 503),
    openapi_extra=takes(PlanSpec)
    | {
        "parameters": [
            document.query(
                "confirm", "`true`: however many Runs it creates at once", schema=document.FLAG
            ),
            document.query(
                "dry_run",
                "`true`: register nothing, say which Runs there would be",
                schema=document.FLAG,
            ),
        ]
    },
)
async def register_plan(request: Request, deps: DepsOf, store: StoreOf) -> Response:
    """Register a Plan. An equivalent one is a conflict, and its id is in `see`.

    One that would create very many Runs at once is a conflict too, with `confirm=true` in `see`.
    A dry run refuses what registering would refuse, for other reasons than the number of Runs.
    """
    require_json(request)
    confirmed = queries.flag(request.query_params, "confirm")
    dry = queries.flag(request.query_params, "dry_run")
    spec = parse_plan(await json_body(request))
    if dry:
        return json_response(preview_to_wire(await store.plans.preview(spec, most=PREVIEWED)))
    try:
        plan = await store.plans.register(spec, new_runs_limit=None if confirmed else deps.new_runs)
    except TooManyRuns as refused:
        raise TooManyRuns(refused.reason, advice=refused.advice, see=CONFIRM) from refused
    log.info(
        "Plan is registered",
        extra={"action": "plan_registered", "plan_id": plan.summary.plan_id},
    )
    return json_response(ToWire().plan(plan))


@router.get("/{plan_id}", response_model=Plan, responses=failures(404, 503))
async def show_plan(plan_id: str, store: StoreOf) -> Response:
    """Show a Plan with its neighbours."""
    return json_response(ToWire().plan(await store.plans.get(queries.plan_id(plan_id))))


@router.put("/{plan_id}/active", response_model=Plan, responses=failures(404, 503))
async def activate_plan(plan_id: str, store: StoreOf) -> Response:
    """Let the Plan's deactivated Runs wait for their turn again; idempotent."""
    return await _set_active(store, plan_id, True)


@router.delete("/{plan_id}/active", response_model=Plan, responses=failures(404, 503))
async def deactivate_plan(plan_id: str, store: StoreOf) -> Response:
    """Keep the Plan's waiting Runs from starting; idempotent."""
    return await _set_active(store, plan_id, False)


async def _set_active(store: ApiStore, plan_id: str, active: bool) -> Response:
    plan = await store.plans.set_active(queries.plan_id(plan_id), active)
    return _changed(plan, "plan_active_set", active=active)


@router.put(
    "/{plan_id}/resources",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(ResourcesChange),
)
async def change_resources(plan_id: str, request: Request, store: StoreOf) -> Response:
    """Change what run pods of later launches may use.

    For a type in both, `set` wins. Without `cpu` or `memory` their defaults hold.
    """
    require_json(request)
    change = parse_resource_change(await json_body(request))
    plan = await store.plans.change_resources(queries.plan_id(plan_id), change)
    return _changed(plan, "plan_resources_changed")


@router.put(
    "/{plan_id}/annotations",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(AnnotationsChange),
)
async def change_annotations(plan_id: str, request: Request, store: StoreOf) -> Response:
    """Remove, then add annotations; idempotent."""
    require_json(request)
    change = parse_annotation_change(await json_body(request))
    plan = await store.plans.change_annotations(queries.plan_id(plan_id), change)
    return _changed(plan, "plan_annotations_changed")


@router.put(
    "/{plan_id}/serviceaccount",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(ServiceAccountChange),
)
async def set_service_account(plan_id: str, request: Request, store: StoreOf) -> Response:
    """Let run pods of later launches have the token of a service account."""
    require_json(request)
    name = parse_service_account_change(await json_body(request))
    plan = await store.plans.set_service_account(queries.plan_id(plan_id), name)
    return _changed(plan, "plan_service_account_set")


@router.delete("/{plan_id}/serviceaccount", response_model=Plan, responses=failures(404, 503))
async def unset_service_account(plan_id: str, store: StoreOf) -> Response:
    """Let run pods of later launches have no token; idempotent."""
    plan = await store.plans.set_service_account(queries.plan_id(plan_id), None)
    return _changed(plan, "plan_service_account_set")


@router.put(
    "/{plan_id}/priority",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(PriorityChange),
)
async def set_priority(plan_id: str, request: Request, store: StoreOf) -> Response:
    """Let the Plan's waiting Runs, and those to come, go before those of a lower priority."""
    require_json(request)
    priority = parse_priority_change(await json_body(request))
    plan = await store.plans.set_priority(queries.plan_id(plan_id), priority)
    return _changed(plan, "plan_priority_set", priority=priority)


def _changed(plan: PlanDetail, action: str, **facts: object) -> Response:
    """Note a change that was made, and give the Plan as it is now."""
    told = {"action": action, "plan_id": plan.summary.plan_id, **facts}
    log.info("Plan is changed", extra=told)
    return json_response(ToWire().plan(plan))
