"""`knit.Transfer`: a door is open for as long as its client is there, and every end is clean."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from knit_workflows import names
from knit_workflows.client import KnitClient, OpenTransfer
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import (
    Conflict,
    DataNotFound,
    EngineUnavailable,
    NotFound,
    StorageFull,
)
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment


async def _folder(knit: object, transfer_id: str) -> Path:
    record = await knit.store.transfer(transfer_id)  # type: ignore[attr-defined]
    url = urlsplit(record.endpoint)
    assert url.scheme == "file"
    return Path(url.path)


async def test_an_upload_becomes_data_with_its_tags(postgres: EmbeddedPostgres) -> None:
    """Tags given before the end are there from the first moment the Data is done."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        (await _folder(knit, upload.transfer_id) / "file").write_text("content")
        await knit.store.change_tags(
            upload.knit_id, TagChange(add=frozenset({Tag("type", "dataset")}))
        )
        closed = await knit.knit.finish(upload, ok=True)
        data = await knit.store.data(upload.knit_id)
        assert closed.status == "done"
        assert Tag("type", "dataset") in data.tags
        assert data.upstream.run.plan.name == "knit#uploaded"

        download = await knit.knit.open_download(upload.knit_id)
        assert (await _folder(knit, download.transfer_id) / "file").read_text() == "content"
        await knit.knit.finish(download, ok=True)
        with pytest.raises(NotFound):
            await knit.store.transfer(download.transfer_id)


async def test_a_broken_upload_leaves_a_failed_run(postgres: EmbeddedPostgres) -> None:
    """And nothing that matches; the reason is kept. Finishing again gives the same answer."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        closed = await knit.knit.finish(upload, ok=False, reason="the client went away")
        assert closed.status == "failed"
        assert upload.run_id is not None
        run = await knit.store.run(upload.run_id)
        assert run.summary.status is RunStatus.FAILED
        assert run.summary.exit is not None
        assert run.summary.exit.message == "the client went away"
        data = await knit.store.data(upload.knit_id)
        assert Tag("knit#transient", "failed") in data.tags


async def _renewed(knit: KnitEnvironment, lease: float) -> OpenTransfer | None:
    """Open an upload and renew its lease for two leases; None where that did not keep it."""
    client = KnitClient(knit.temporal, lease=timedelta(seconds=lease), queues=knit.deps.queues)
    with suppress(Conflict, EngineUnavailable, NotFound):
        upload = await client.open_upload()
        assert upload.run_id is not None
        for _ in range(6):
            await asyncio.sleep(lease / 3)
            await client.renew(upload)
        if (await knit.store.run(upload.run_id)).summary.status is RunStatus.RUNNING:
            return upload
    return None


async def test_a_silent_client_loses_its_lease(postgres: EmbeddedPostgres) -> None:
    """A renewed lease lasts, a silent one ends the upload; finishing too late says so."""
    async with knit_environment(postgres=postgres) as knit:
        for lease in (1, 8, 30):  # a machine that stands still for a second needs a longer one
            if (upload := await _renewed(knit, lease)) is not None:
                break
        assert upload is not None
        assert upload.run_id is not None
        assert (await knit.final(upload.run_id)).summary.status is RunStatus.FAILED
        handle = knit.temporal.get_workflow_handle(names.transfer_workflow(upload.transfer_id))
        await handle.result()
        with pytest.raises(Conflict):
            await knit.knit.finish(upload, ok=True)


async def test_an_upload_without_room_is_refused_at_once(postgres: EmbeddedPostgres) -> None:
    """In the back-end's words, without a trace; with room again the next one is taken."""
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        backend.short_of_room = "the disk has 3 MiB left"
        with pytest.raises(StorageFull, match="the disk has 3 MiB left"):
            await knit.knit.open_upload()
        assert await knit.store.find_runs(RunQuery()) == []
        backend.short_of_room = ""
        await knit.push({"type": "dataset"})


async def test_unknown_data_cannot_be_opened(postgres: EmbeddedPostgres) -> None:
    """The reason reaches the caller as the domain error it is."""
    async with knit_environment(postgres=postgres) as knit:
        with pytest.raises(DataNotFound):
            await knit.knit.open_download(KnitId(str(uuid.uuid4())))


async def test_a_cancelled_transfer_is_closed(postgres: EmbeddedPostgres) -> None:
    """Cancel in Temporal discards the upload."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        assert upload.run_id is not None
        handle = knit.temporal.get_workflow_handle(names.transfer_workflow(upload.transfer_id))
        await handle.cancel()
        assert (await knit.final(upload.run_id)).summary.status is RunStatus.FAILED


async def test_a_push_that_no_worker_takes_up_ends_with_advice(postgres: EmbeddedPostgres) -> None:
    """Temporal is there, the workers are not: the sentence names them, after one lease."""
    async with knit_environment(postgres=postgres, work=False) as knit:
        client = KnitClient(knit.temporal, lease=timedelta(seconds=1), queues=knit.deps.queues)
        with pytest.raises(EngineUnavailable) as refused:
            await client.open_upload()
        assert "workers" in refused.value.advice
