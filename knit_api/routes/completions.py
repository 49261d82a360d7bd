"""`/api/completions`: what a shell offers when a key is pressed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response

from knit_api.deps import StoreOf
from knit_api.openapi.document import failures
from knit_api.parameters import CompletionOptions
from knit_api.responses import json_response
from knit_workflows.wire.completions import Completion

router = APIRouter(prefix="/api/completions", tags=["completions"])


@router.get(
    "",
    response_model=list[Completion],
    responses=failures(400, 503),
)
async def complete(store: StoreOf, query: Annotated[CompletionOptions, Query()]) -> Response:
    """Show ids, tags or keys of tags that begin like this, as a shell completes them.

    Quick however many there are, and not complete: tags are looked for among the newest 100,000.
    """
    found = await store.completions.find(query.noun, query.prefix, limit=query.limit)
    return json_response([asdict(one) for one in found])
