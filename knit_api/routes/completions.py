"""`/api/completions`: what a shell offers when a key is pressed."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from knit_api import queries
from knit_api.deps import StoreOf
from knit_api.openapi import document
from knit_api.openapi.document import failures
from knit_api.responses import json_response
from knit_workflows.domain.completions import Noun
from knit_workflows.wire.completions import Completion

router = APIRouter(prefix="/api/completions", tags=["completions"])


@router.get(
    "",
    response_model=list[Completion],
    responses=failures(400, 503),
    openapi_extra={
        "parameters": [
            document.query(
                "of",
                "what: ids, tags, or keys of tags",
                schema={"type": "string", "enum": list(Noun)},
                example=Noun.TAGS.value,
            ),
            document.query("prefix", "how they begin; absent: the newest", example="type:"),
            document.query("limit", "at most so many: 1 to 1000 (100)", kind="integer"),
        ]
    },
)
async def complete(request: Request, store: StoreOf) -> Response:
    """Show ids, tags or keys of tags that begin like this, as a shell completes them.

    Quick however many there are, and not complete: tags are looked for among the newest 100,000.
    """
    query = queries.completion_query(request.query_params)
    found = await store.completions.find(query.noun, query.prefix, limit=query.limit)
    return json_response([asdict(one) for one in found])
