"""`/api/completions/{noun}`: what a shell offers when a key is pressed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from fastapi import APIRouter, Request, Response

from knit_api import openapi, queries
from knit_api.deps import StoreOf
from knit_api.openapi import failures
from knit_api.responses import json_response
from knit_api.schemas.completions import Completion
from knit_workflows.domain.completions import Noun
from knit_workflows.domain.errors import InvalidRequest

router = APIRouter(prefix="/api/completions", tags=["completions"])

_NOUNS: Final = ", ".join(Noun)


@router.get(
    "/{noun}",
    response_model=list[Completion],
    responses=failures(400, 503),
    openapi_extra={
        "parameters": [
            openapi.query("prefix", "how they begin; absent: the newest", example="0"),
            openapi.query("limit", "at most so many: 1 to 1000 (100)", kind="integer"),
        ]
    },
)
async def complete(noun: str, request: Request, store: StoreOf) -> Response:
    """Show ids (`data`, `runs`, `plans`), `tags` or `keys` of tags that begin like this.

    Quick however many there are, and not complete: tags are looked for among the newest 100,000.
    """
    if noun not in list(Noun):
        raise InvalidRequest(
            f"bad request: {noun[:80]!r} cannot be completed", advice=f"write one of {_NOUNS}"
        )
    asked = queries.completion_query(request.query_params)
    found = await store.completions(Noun(noun), asked.prefix, limit=asked.limit)
    return json_response([asdict(one) for one in found])
