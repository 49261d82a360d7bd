"""Pages of a list: the body stays a plain array, where to go on stands in two headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypedDict, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from knit_api.openapi import document
from knit_api.queries import MOST_ITEMS, Page
from knit_api.responses import json_list_response
from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.data import DataDetail
from knit_workflows.domain.plans.model import PlanDetail
from knit_workflows.domain.runs import RunDetail
from knit_workflows.domain.tags import KEY_TIMESTAMP, parse_timestamp
from knit_workflows.wire.base import Wire

T = TypeVar("T")

NEXT_HEADER: Final = "X-Next-Cursor"

PARAMETERS: Final = [
    document.query(
        "limit",
        f"1 to {MOST_ITEMS}: as many items at most; absent: all",
        schema={"type": "integer", "minimum": 1, "maximum": MOST_ITEMS},
        example=100,
    ),
    document.query(
        "cursor",
        f"the header `{NEXT_HEADER}` of the page before; its other filters are to be given again",
        schema=document.CURSOR,
    ),
]

RESPONSES: Final = document.gives_page(NEXT_HEADER)


class Bounds(TypedDict):
    """What the store is asked for."""

    limit: int | None
    after: str | None


def bounds(page: Page) -> Bounds:
    """Gives what the store is asked for: one item more, which tells whether there is a rest."""
    return {"limit": page.limit and page.limit + 1, "after": page.after}


async def page_response(
    request: Request,
    page: Page,
    found: Sequence[T],
    to_wire: Callable[[T], Wire],
    cursor_of: Callable[[T], str],
) -> Response:
    """Gives what was found within the page's `bounds`, and where the next page begins."""
    shown = found[: page.limit]
    headers = {}
    if len(shown) < len(found):
        cursor = cursor_of(shown[-1])
        kept = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        target = f"{request.url.path}?{urlencode([*kept, ('cursor', cursor)])}"
        headers = {"Link": f'<{target}>; rel="next"', NEXT_HEADER: cursor}
    return await json_list_response(shown, to_wire, headers=headers)


def data_cursor(one: DataDetail) -> str:
    """Gives the place of a Data in the list of Data."""
    stamps = (parse_timestamp(tag.value) for tag in one.tags if tag.key == KEY_TIMESTAMP)
    return str(Cursor(one.knit_id, next(stamps, None)))


def plan_cursor(one: PlanDetail) -> str:
    """Gives the place of a Plan in the list of Plans, which is its id."""
    return one.summary.plan_id


def run_cursor(one: RunDetail) -> str:
    """Gives the place of a Run in the list of Runs."""
    return str(Cursor(one.summary.run_id, one.summary.updated_at))
