"""The key of an upload: what a client that lost the answer sends again, to get the same Data.

One key stands for one Run and at most one Data: their ids are computed from it.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from starlette.datastructures import Headers

from knit_workflows.client import keyed_upload
from knit_workflows.domain import errors
from knit_workflows.domain.data import DataDetail
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs import RunStatus

HEADER: Final = "Idempotency-Key"

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def upload_key(headers: Headers) -> UUID | None:
    """Reads the key of an upload; None: it has none. Raises InvalidRequest."""
    values = headers.getlist(HEADER)
    if not values:
        return None
    if len(values) > 1 or not _UUID.fullmatch(values[0]):
        raise errors.InvalidRequest(
            f"bad request: {HEADER} is {', '.join(values)[:80]!r}",
            advice="send one UUID, a new random one for each upload, or leave it out",
        )
    return UUID(values[0])


async def made_before(store: ApiStore, key: UUID) -> DataDetail | None:
    """Gives the Data that was made with this key; None: the store knows of no upload with it.

    Raises UploadUnderWay, UploadKeySpent when it has failed, which is for ever.
    """
    try:
        detail = await store.data.get(keyed_upload(key).knit_id)
    except errors.DataNotFound:
        return None
    run = detail.upstream.run
    if run.status is RunStatus.DONE:
        return detail
    if run.status is RunStatus.FAILED:
        raise errors.UploadKeySpent("the upload with this key has failed", see=run.run_id)
    raise errors.UploadUnderWay(see=run.run_id)
