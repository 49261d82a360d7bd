"""`/api/plans`: find, register, show and change Plans."""

from __future__ import annotations

import logging
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from knit_api import pagination
from knit_api.accounts.guard import ActorOf, note_made
from knit_api.bodies import json_body, require_json
from knit_api.deps import DepsOf, StoreOf
from knit_api.openapi.document import failures, takes
from knit_api.pagination import page_response
from knit_api.parameters import PlanFilter, PlanIdPath, RegistrationOptions
from knit_api.responses import json_response
from knit_api.whole_lists import one_after_the_other, whole_list
from knit_workflows.domain.errors import InvalidPlan, TooManyRuns
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.plans.changes import (
    parse_annotation_change,
    parse_priority_change,
    parse_resource_change,
    parse_service_account_change,
)
from knit_workflows.domain.plans.model import PlanDetail
from knit_workflows.domain.plans.option_forms import parse_options_change
from knit_workflows.domain.plans.options import PlanOptions, require_allowed
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.ports import ApiStore
from knit_workflows.wire.mapping import ToWire, preview_to_wire
from knit_workflows.wire.options import OptionsChange
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

PREVIEW_LIMIT: Final = 100
"""How many Runs a dry run gives one by one."""

router = APIRouter(prefix="/api/plans", tags=["plans"])


@router.get(
    "",
    response_model=list[Plan],
    responses=pagination.RESPONSES | failures(400, 426, 503),
)
async def find_plans(
    request: Request, deps: DepsOf, store: StoreOf, query: Annotated[PlanFilter, Query()]
) -> Response:
    """Find Plans, in the order of their ids; the built-in ones are among them."""
    asked = query.to_domain()
    if query.limit is None:
        cursor_of = pagination.plan_cursor
        parts = one_after_the_other(store.plans.find, asked, query.cursor, cursor_of)
        timeout = deps.timeouts.write
        return await whole_list(request, parts, lambda: ToWire().plan, write_timeout=timeout)
    found = await store.plans.find(asked, **pagination.bounds(query))
    return await page_response(request, query, found, ToWire().plan, pagination.plan_cursor)


@router.post(
    "",
    response_model=Plan | PlanPreview,
    responses=failures(400, 409, 413, 503),
    openapi_extra=takes(PlanSpec),
)
async def register_plan(
    request: Request, deps: DepsOf, store: StoreOf, options: Annotated[RegistrationOptions, Query()]
) -> Response:
    """Register a Plan. An equivalent one is a conflict, and its id is in `see`.

    One that would create very many Runs at once is a conflict too, with `confirm=true` in `see`.
    A dry run refuses what registering would refuse, for other reasons than the number of Runs.
    """
    require_json(request)
    spec = parse_plan(await json_body(request))
    require_allowed(spec.options.pod, deps.plan_pod_keys)
    if options.dry_run:
        return json_response(preview_to_wire(await store.plans.preview(spec, limit=PREVIEW_LIMIT)))
    try:
        limit = None if options.confirm else deps.new_runs
        plan = await store.plans.register(spec, new_runs_limit=limit)
    except TooManyRuns as refused:
        raise TooManyRuns(refused.reason, advice=refused.advice, see=CONFIRM) from refused
    note_made(request, plan_id=plan.summary.plan_id)
    log.info(
        "Plan is registered",
        extra={"action": "plan_registered", "plan_id": plan.summary.plan_id},
    )
    return json_response(ToWire().plan(plan))


@router.get("/{plan_id}", response_model=Plan, responses=failures(404, 503))
async def show_plan(plan_id: PlanIdPath, store: StoreOf) -> Response:
    """Show a Plan with its neighbours."""
    return json_response(ToWire().plan(await store.plans.get(plan_id)))


@router.put("/{plan_id}/active", response_model=Plan, responses=failures(404, 503))
async def activate_plan(plan_id: PlanIdPath, store: StoreOf, actor: ActorOf) -> Response:
    """Let the Plan's deactivated Runs wait for their turn again; idempotent."""
    return await _set_active(store, plan_id, True, actor)


@router.delete("/{plan_id}/active", response_model=Plan, responses=failures(404, 503))
async def deactivate_plan(plan_id: PlanIdPath, store: StoreOf, actor: ActorOf) -> Response:
    """Keep the Plan's waiting Runs from starting; idempotent."""
    return await _set_active(store, plan_id, False, actor)


async def _set_active(store: ApiStore, plan_id: PlanId, active: bool, actor: str) -> Response:
    plan = await store.plans.set_active(plan_id, active, actor=actor)
    return _changed(plan, "plan_active_set", active=active)


@router.put(
    "/{plan_id}/resources",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(ResourcesChange),
)
async def change_resources(plan_id: PlanIdPath, request: Request, store: StoreOf) -> Response:
    """Change what run pods of later launches may use.

    For a type in both, `set` wins. Without `cpu` or `memory` their defaults hold.
    """
    require_json(request)
    change = parse_resource_change(await json_body(request))
    plan = await store.plans.change_resources(plan_id, change)
    return _changed(plan, "plan_resources_changed")


@router.put(
    "/{plan_id}/annotations",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(AnnotationsChange),
)
async def change_annotations(plan_id: PlanIdPath, request: Request, store: StoreOf) -> Response:
    """Remove, then add annotations; idempotent."""
    require_json(request)
    change = parse_annotation_change(await json_body(request))
    plan = await store.plans.change_annotations(plan_id, change)
    return _changed(plan, "plan_annotations_changed")


@router.put(
    "/{plan_id}/serviceaccount",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(ServiceAccountChange),
)
async def set_service_account(plan_id: PlanIdPath, request: Request, store: StoreOf) -> Response:
    """Let run pods of later launches have the token of a service account."""
    require_json(request)
    name = parse_service_account_change(await json_body(request))
    plan = await store.plans.set_service_account(plan_id, name)
    return _changed(plan, "plan_service_account_set")


@router.delete("/{plan_id}/serviceaccount", response_model=Plan, responses=failures(404, 503))
async def unset_service_account(plan_id: PlanIdPath, store: StoreOf) -> Response:
    """Let run pods of later launches have no token; idempotent."""
    plan = await store.plans.set_service_account(plan_id, None)
    return _changed(plan, "plan_service_account_set")


@router.put(
    "/{plan_id}/priority",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(PriorityChange),
)
async def set_priority(plan_id: PlanIdPath, request: Request, store: StoreOf) -> Response:
    """Let the Plan's waiting Runs, and those to come, go before those of a lower priority."""
    require_json(request)
    priority = parse_priority_change(await json_body(request))
    plan = await store.plans.set_priority(plan_id, priority)
    return _changed(plan, "plan_priority_set", priority=priority)


@router.put(
    "/{plan_id}/options",
    response_model=Plan,
    responses=failures(400, 404, 413, 503),
    openapi_extra=takes(OptionsChange),
)
async def set_options(
    plan_id: PlanIdPath, request: Request, deps: DepsOf, store: StoreOf
) -> Response:
    """Replace what is asked of a cluster for run pods and volumes of later launches.

    What the body leaves out is as the installation says.
    """
    require_json(request)
    options = parse_options_change(await json_body(request))
    require_allowed(options.pod, deps.plan_pod_keys)
    _check_paths(options, await store.plans.get(plan_id))
    plan = await store.plans.set_options(plan_id, options)
    return _changed(plan, "plan_options_set")


def _check_paths(options: PlanOptions, plan: PlanDetail) -> None:
    """Raises InvalidPlan if there are options for a volume that the Plan does not make."""
    log = [plan.log] if plan.log is not None else []
    paths = [one.mountpoint.path for one in (*plan.outputs, *log)]
    for path in options.volumes:
        if path not in paths:
            advice = f"its outputs are {', '.join(paths)}" if paths else "it has no output"
            raise InvalidPlan(
                f"volumes.{path}: the Plan has no output at {path[:100]}",
                advice=advice,
                see=f"volumes.{path}",
            )


def _changed(plan: PlanDetail, action: str, **fields: object) -> Response:
    """Log a change, and give the Plan as it is now."""
    extra = {"action": action, "plan_id": plan.summary.plan_id, **fields}
    log.info("Plan is changed", extra=extra)
    return json_response(ToWire().plan(plan))
