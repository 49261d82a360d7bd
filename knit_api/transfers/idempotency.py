"""Idempotency of uploads: a client that repeats a request with its key gets the same Data.

One key stands for one Run and at most one Data, whose ids are derived from it.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.datastructures import Headers

from knit_workflows.client import upload_for_key
from knit_workflows.domain import errors
from knit_workflows.domain.data import DataDetail
from knit_workflows.domain.ids import parse_id
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs.run import RunStatus

HEADER: Final = "Idempotency-Key"


def idempotency_key(headers: Headers) -> UUID | None:
    """Reads the header; None if there is none; raises InvalidRequest."""
    values = headers.getlist(HEADER)
    if not values:
        return None
    if len(values) > 1 or parse_id(values[0]) is None:
        raise errors.InvalidRequest(
            f"bad request: {HEADER} is {', '.join(values)[:80]!r}",
            advice="send one UUID, a new random one for each upload, or leave it out",
        )
    return UUID(values[0])


async def existing_upload(store: ApiStore, key: UUID) -> DataDetail | None:
    """Gives the Data that was made with this key; None: the store knows no upload with it.

    Raises:
        UploadInProgress: it has not ended yet.
        IdempotencyKeyConsumed: it has failed, which is final.
    """
    try:
        detail = await store.data.get(upload_for_key(key).knit_id)
    except errors.DataNotFound:
        return None
    run = detail.upstream.run
    if run.status is RunStatus.DONE:
        return detail
    if run.status is RunStatus.FAILED:
        raise errors.IdempotencyKeyConsumed("the upload with this key has failed", see=run.run_id)
    raise errors.UploadInProgress(see=run.run_id)
