"""The key of an upload at the seam to Temporal: one transfer, once."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from knit_workflows import names
from knit_workflows.client import KnitClient, TransferHandle, upload_for_key
from knit_workflows.domain.errors import IdempotencyKeyConsumed, UploadInProgress
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import KnitEnvironment, knit_environment


async def _over(knit: KnitEnvironment, upload: TransferHandle) -> None:
    workflow_id = names.transfer_workflow(upload.transfer_id)
    await knit.temporal.get_workflow_handle(workflow_id).result()


async def test_a_key_opens_one_transfer_once(postgres: EmbeddedPostgres) -> None:
    """Of many at once one gets it; the others, and who comes after its end, hear how it is."""
    key = uuid.uuid4()
    async with knit_environment(postgres=postgres) as knit:
        clients = [KnitClient(knit.temporal, queues=knit.deps.queues) for _ in range(6)]
        opening = (client.open_upload(key) for client in clients)
        answers = await asyncio.gather(*opening, return_exceptions=True)
        [upload] = [one for one in answers if isinstance(one, TransferHandle)]
        assert upload == upload_for_key(key)
        assert [type(one) for one in answers if one != upload] == [UploadInProgress] * 5
        assert (await knit.knit.finish(upload, ok=True)).status == "done"
        await _over(knit, upload)
        with pytest.raises(IdempotencyKeyConsumed) as refused:
            await knit.knit.open_upload(key)
        assert refused.value.see == upload.run_id
        assert [one.knit_id for one in await knit.data_with({})] == [upload.knit_id]


async def test_an_opened_transfer_is_not_opened_for_another(postgres: EmbeddedPostgres) -> None:
    """The outcome of an opening stays with its caller, while the transfer goes on and after it."""
    key = uuid.uuid4()
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload(key)
        for _ in range(2):
            with pytest.raises(UploadInProgress):
                await knit.knit.open_upload(key)
        assert (await knit.knit.finish(upload, ok=False, reason="cut")).status == "failed"
        await _over(knit, upload)
        with pytest.raises(IdempotencyKeyConsumed):
            await knit.knit.open_upload(key)
