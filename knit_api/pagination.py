"""Pages of a list: the body is a plain array, two headers say where the next page begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypedDict, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from knit_api.openapi import document
from knit_api.parameters import Page
from knit_api.responses import json_list_response
from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.data import DataDetail
from knit_workflows.domain.hooks import HookDelivery
from knit_workflows.domain.plans.model import PlanDetail
from knit_workflows.domain.runs.run import RunDetail
from knit_workflows.domain.tags import KEY_TIMESTAMP, parse_timestamp
from knit_workflows.wire.base import Wire

T = TypeVar("T")

NEXT_HEADER: Final = "X-Next-Cursor"

RESPONSES: Final = document.gives_page(NEXT_HEADER)


class Bounds(TypedDict):
    """The arguments of a search in the store."""

    limit: int | None
    after: str | None


def bounds(page: Page) -> Bounds:
    """Gives what the store is asked for: one item more, to see whether a page follows."""
    return {"limit": page.limit and page.limit + 1, "after": page.cursor}


async def page_response(
    request: Request,
    page: Page,
    found: Sequence[T],
    to_wire: Callable[[T], Wire],
    cursor_of: Callable[[T], str],
) -> Response:
    """Gives the items found within the page's `bounds`, and the cursor of the next page, if any."""
    shown = found[: page.limit]
    headers = {}
    if len(shown) < len(found):
        cursor = cursor_of(shown[-1])
        kept = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        target = f"{request.url.path}?{urlencode([*kept, ('cursor', cursor)])}"
        headers = {"Link": f'<{target}>; rel="next"', NEXT_HEADER: cursor}
    return await json_list_response(shown, to_wire, headers=headers)


def data_cursor(one: DataDetail) -> str:
    """Gives the position of a Data in the list of Data."""
    stamps = (parse_timestamp(tag.value) for tag in one.tags if tag.key == KEY_TIMESTAMP)
    return str(Cursor(one.knit_id, next(stamps, None)))


def plan_cursor(one: PlanDetail) -> str:
    """Gives the position of a Plan in the list of Plans, which is its id."""
    return one.summary.plan_id


def run_cursor(one: RunDetail) -> str:
    """Gives the position of a Run in the list of Runs."""
    return str(Cursor(one.summary.run_id, one.summary.updated_at))


def delivery_cursor(one: HookDelivery) -> str:
    """Gives the position of a delivery in the list of deliveries."""
    return one.cursor
