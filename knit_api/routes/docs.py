"""`/api/docs`: the OpenAPI document for people; for programs it is `/api/openapi.json`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from knit_api.openapi import page

router = APIRouter(prefix="/api/docs", include_in_schema=False)


@router.get("")
async def show_document(request: Request) -> Response:
    """Show every operation with its parameters, bodies, statuses and an example."""
    text = page.render(request.app.openapi())
    return Response(text, media_type=page.MEDIA_TYPE, headers=page.HEADERS)
