"""`/api/hooks`: which hooks are in force, what became of their calls, and the steering of them."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from knit_api import pagination
from knit_api.accounts.guard import ActorOf
from knit_api.bodies import model_body
from knit_api.deps import Deps, DepsOf, StoreOf
from knit_api.openapi.document import failures, takes
from knit_api.pagination import page_response
from knit_api.parameters import DeliveryFilter, DeliveryIdPath
from knit_api.responses import json_response
from knit_api.whole_lists import one_after_the_other, whole_list
from knit_workflows.domain.errors import InvalidRequest, KnitError
from knit_workflows.domain.hooks import HookDelivery as Delivery
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.runs.run import KNIT
from knit_workflows.wire.hooks.deliveries import (
    HookDelivery,
    Hooks,
    HookSkip,
    HookTestAnswer,
    HookTestRequest,
)
from knit_workflows.wire.mapping import delivery_to_wire, hooks_to_wire, milliseconds

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/hooks", tags=["hooks"])


@router.get("", response_model=Hooks, responses=failures(503))
async def show_hooks(store: StoreOf) -> Response:
    """Show the hooks in force, in the order in which they are called, and where they come from."""
    return json_response(hooks_to_wire(await store.hooks.in_force()))


@router.get(
    "/deliveries",
    response_model=list[HookDelivery],
    responses=pagination.RESPONSES | failures(400, 404, 426, 503),
)
async def find_deliveries(
    request: Request, deps: DepsOf, store: StoreOf, query: Annotated[DeliveryFilter, Query()]
) -> Response:
    """Find deliveries: one per hook and change of a Run's status, those called last first.

    `since` is compared with the time of the last call. One that is called again while a long list
    is sent may be missing from it: its place, by its time, is before the others then.
    """
    asked = query.to_domain()
    cursor_of = pagination.delivery_cursor
    if query.limit is None:
        parts = one_after_the_other(store.hooks.find, asked, query.cursor, cursor_of)
        timeout = deps.timeouts.write
        return await whole_list(request, parts, lambda: delivery_to_wire, write_timeout=timeout)
    found = await store.hooks.find(asked, **pagination.bounds(query))
    return await page_response(request, query, found, delivery_to_wire, cursor_of)


@router.post(
    "/deliveries/{delivery_id}/skip",
    response_model=HookDelivery,
    responses=failures(400, 404, 409, 413, 503),
    openapi_extra=takes(HookSkip),
)
async def skip_delivery(
    delivery_id: DeliveryIdPath, request: Request, deps: DepsOf, store: StoreOf, actor: ActorOf
) -> Response:
    """Let a Run go on without a Before hook that has not agreed; a second call changes nothing.

    The Run's history says who did it and why: the caller, or, without accounts, whom `by` names.
    """
    asked = await model_body(request, HookSkip)
    by = actor if deps.accounts.required else asked.by
    if asked.by == KNIT:
        raise InvalidRequest(
            f"bad request: by is {asked.by!r}, as changes are called that knit itself makes",
            advice="say who skips the hook",
        )
    one = await store.hooks.skip(delivery_id, actor=by, reason=asked.reason)
    log.info(
        "hook is skipped",
        extra={
            "action": "hook_skipped",
            "delivery_id": delivery_id,
            "run_id": one.transition.run_id,
            "url": one.url,
            "actor": one.skipped_by,
        },
    )
    await _tell_run(deps, one)
    return json_response(delivery_to_wire(one))


@router.post(
    "/test",
    response_model=HookTestAnswer,
    responses=failures(400, 413, 503),
    openapi_extra=takes(HookTestRequest),
)
async def test_hook(request: Request, deps: DepsOf, store: StoreOf) -> Response:
    """Send the body of a sample Run, `ready` → `starting`, to a hook in force, once.

    It is that of a Before hook, unless the URL is an After hook only.
    200 whatever the hook answers. A worker with the role `hooks` calls it, as it does for Runs.
    """
    url = (await model_body(request, HookTestRequest)).url
    hooks = await store.hooks.hooks()
    if url not in {*hooks.before, *hooks.after}:
        raise InvalidRequest(
            f"bad request: {url[:200]!r} is not a hook in force",
            advice="put it into the hooks file first; `knit hook list` shows those in force",
        )
    phase = HookPhase.BEFORE if url in hooks.before else HookPhase.AFTER
    result = await (await deps.transfers.get()).test_hook(url, phase)
    answer = HookTestAnswer(
        url=url,
        succeeded=result.succeeded,
        duration_ms=milliseconds(result.duration),
        status_code=result.status_code,
        answer=result.text,
        environment=list(result.environment),
    )
    return json_response(answer)


async def _tell_run(deps: Deps, skipped: Delivery) -> None:
    """Makes the Run go on at once; without that, its next try sees the skip."""
    step = skipped.transition
    try:
        await (await deps.transfers.get()).hook_skipped(step.run_id, step.generation)
    except KnitError as error:
        log.warning(
            "the Run is not told of the skip, it goes on with its next try: %s",
            error.reason,
            extra={"action": "hook_skip_not_told", "run_id": step.run_id},
        )
