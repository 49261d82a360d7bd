"""`knit.Transfer`: open for as long as its client is there, and every end is clean."""

from __future__ import annotations

import asyncio
import re
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError
from temporalio.worker import Worker

from knit_workflows import client as client_module
from knit_workflows import names
from knit_workflows.client import KnitClient, TransferHandle, upload_for_key
from knit_workflows.compute.base import Endpoint, Transfer
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import (
    BackendUnavailable,
    Busy,
    Conflict,
    DataNotFound,
    EngineUnavailable,
    NotFound,
    QuotaExceeded,
    StorageFull,
    TransferNotReady,
    Unavailable,
)
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import KnitPlugin, Role
from knit_workflows.settings import EngineSettings
from knit_workflows.testing import (
    QUICK,
    KnitEnvironment,
    MemoryBackend,
    knit_environment,
    temporal,
)
from knit_workflows.worker import workers
from knit_workflows.workflows.transfer import TransferWorkflow
from tests.chaos.servers import Temporal
from tests.waiting import PATIENCE
from tests.workflows.test_hooks_waiting import short_histories


async def _folder(knit: object, transfer_id: str) -> Path:
    record = await knit.store.transfers.get(transfer_id)  # type: ignore[attr-defined]
    url = urlsplit(record.endpoint)
    assert url.scheme == "file"
    return Path(url.path)


async def test_an_upload_becomes_data_with_its_tags(postgres: EmbeddedPostgres) -> None:
    """Tags given before the end are there from the first moment the Data is done."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        (await _folder(knit, upload.transfer_id) / "file").write_text("content")
        await knit.store.data.change_tags(
            upload.knit_id, TagChange(add=frozenset({Tag("type", "dataset")}))
        )
        closed = await knit.knit.finish(upload, ok=True)
        data = await knit.store.data.get(upload.knit_id)
        assert closed.status == "done"
        assert Tag("type", "dataset") in data.tags
        assert data.upstream.run.plan.name == "knit#uploaded"

        download = await knit.knit.open_download(upload.knit_id)
        assert (await _folder(knit, download.transfer_id) / "file").read_text() == "content"
        await knit.knit.finish(download, ok=True)
        with pytest.raises(NotFound):
            await knit.store.transfers.get(download.transfer_id)


async def test_a_transfer_of_days_goes_on_in_another_execution(
    postgres: EmbeddedPostgres,
) -> None:
    """Each renewal makes its history longer, which has a limit."""
    async with (
        short_histories() as client,
        knit_environment(postgres=postgres, client=client) as knit,
    ):
        renewing = KnitClient(
            knit.temporal,
            lease=timedelta(seconds=5),  # once it is over, the workflow may go on elsewhere
            opening=timedelta(seconds=PATIENCE),
            queues=knit.deps.queues,
        )
        upload = await renewing.open_upload()
        (await _folder(knit, upload.transfer_id) / "file").write_text("content")
        workflow_id = names.transfer_workflow(upload.transfer_id)
        handle = knit.temporal.get_workflow_handle(workflow_id)
        first = (await handle.describe()).run_id
        async with asyncio.timeout(PATIENCE):
            while (await handle.describe()).run_id == first:
                await renewing.renew(upload)
                await asyncio.sleep(0.02)
        assert (await knit.knit.finish(upload, ok=True)).status == "done"
        assert (await knit.store.data.get(upload.knit_id)).upstream.run.status is RunStatus.DONE
        assert await knit.store.housekeeping.stale_transfers(older_than=timedelta(0)) == []


async def test_an_upload_whose_volume_somebody_deletes_has_failed(
    postgres: EmbeddedPostgres,
) -> None:
    """Its client hears why."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        record = await knit.store.transfers.get(upload.transfer_id)
        await knit.backend.delete_volume(Volume(record.volume, upload.knit_id))
        closed = await knit.knit.finish(upload, ok=True)
        assert closed.status == "failed"
        assert closed.reason == f"somebody has deleted the volume {record.volume} meanwhile"


async def test_a_broken_upload_leaves_a_failed_run(postgres: EmbeddedPostgres) -> None:
    """And nothing that matches; the reason is kept. Finishing again gives the same answer."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        closed = await knit.knit.finish(upload, ok=False, reason="the client went away")
        assert closed.status == "failed"
        assert upload.run_id is not None
        run = await knit.store.runs.get(upload.run_id)
        assert run.summary.status is RunStatus.FAILED
        assert run.summary.exit is not None
        assert run.summary.exit.message == "the client went away"
        data = await knit.store.data.get(upload.knit_id)
        assert Tag("knit#transient", "failed") in data.tags


async def _renewed(knit: KnitEnvironment, lease: float) -> TransferHandle | None:
    """Opens an upload and renews its lease for two leases; None where that did not keep it."""
    client = KnitClient(knit.temporal, lease=timedelta(seconds=lease), queues=knit.deps.queues)
    with suppress(Conflict, Unavailable, NotFound):
        upload = await client.open_upload()
        assert upload.run_id is not None
        for _ in range(6):
            await asyncio.sleep(lease / 3)
            await client.renew(upload)
        if (await knit.store.runs.get(upload.run_id)).summary.status is RunStatus.RUNNING:
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


async def away(server: Temporal, seconds: float) -> None:
    """Keeps Temporal from doing anything for so long."""
    server.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        server.signal(signal.SIGCONT)


async def _kept_through_an_outage(
    knit: KnitEnvironment, server: Temporal, lease: float
) -> TransferHandle | None:
    """Opens two uploads and renews one of them, but not while Temporal is away.

    Gives the other one; None where that did not keep the first.
    """
    client = KnitClient(knit.temporal, lease=timedelta(seconds=lease), queues=knit.deps.queues)
    with suppress(Conflict, Unavailable, NotFound):
        upload, silent = await client.open_upload(), await client.open_upload()
        (await _folder(knit, upload.transfer_id) / "file").write_text("content")
        await away(server, 2.5 * lease)
        for _ in range(6):  # the first renewal comes after the timer
            await asyncio.sleep(lease / 3)
            await client.renew(upload)
        if (await knit.knit.finish(upload, ok=True)).status == "done":
            return silent
    return None


async def test_a_lease_does_not_end_while_temporal_is_away(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """Nobody can renew it meanwhile; a client that is still silent after that has lost it."""
    server = Temporal(tmp_path)
    await server.start()
    try:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        async with knit_environment(postgres=postgres, client=client) as knit:
            for lease in (3, 10, 30):  # a machine that stands still for seconds needs a longer one
                if (silent := await _kept_through_an_outage(knit, server, lease)) is not None:
                    break
            assert silent is not None
            workflow_id = names.transfer_workflow(silent.transfer_id)
            async with asyncio.timeout(PATIENCE):
                closed = await client.get_workflow_handle_for(
                    TransferWorkflow.run, workflow_id
                ).result()
            assert closed.status == "failed"
            assert silent.run_id is not None
            run = await knit.store.runs.get(silent.run_id)
            assert run.summary.exit is not None
            assert run.summary.exit.message == "the client went silent"
    finally:
        server.kill()


async def test_an_upload_without_room_is_refused_at_once(postgres: EmbeddedPostgres) -> None:
    """In the back-end's words, without a trace; with room again the next one is taken."""
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        backend.storage_full_reason = "the disk has 3 MiB left"
        with pytest.raises(StorageFull, match="the disk has 3 MiB left"):
            await knit.knit.open_upload()
        assert await knit.store.runs.find(RunQuery()) == []
        backend.storage_full_reason = ""
        await knit.push({"type": "dataset"})


async def test_unknown_data_cannot_be_opened(postgres: EmbeddedPostgres) -> None:
    """The reason reaches the caller as the domain error it is."""
    async with knit_environment(postgres=postgres) as knit:
        with pytest.raises(DataNotFound):
            await knit.knit.open_download(KnitId(str(uuid.uuid4())))


async def test_a_cancelled_transfer_is_closed(postgres: EmbeddedPostgres) -> None:
    """Cancelling it in Temporal discards the upload."""
    async with knit_environment(postgres=postgres) as knit:
        upload = await knit.knit.open_upload()
        assert upload.run_id is not None
        handle = knit.temporal.get_workflow_handle(names.transfer_workflow(upload.transfer_id))
        await handle.cancel()
        assert (await knit.final(upload.run_id)).summary.status is RunStatus.FAILED


async def test_a_transfer_that_is_terminated_while_it_opens_is_over(
    postgres: EmbeddedPostgres,
) -> None:
    """Whoever waits for it hears so at once, and why."""
    async with attended_by_one(postgres, Slow(TransferNotReady)) as client:
        one, key = client(60), uuid.uuid4()
        opening = asyncio.create_task(one.open_upload(key))
        handle = one._client.get_workflow_handle(
            names.transfer_workflow(upload_for_key(key).transfer_id)
        )
        async with asyncio.timeout(PATIENCE):
            while not (await _described(handle)):
                await asyncio.sleep(0.1)
            await handle.terminate("by hand")
            with pytest.raises(Conflict, match=r"the transfer is over: .*completed") as over:
                await opening
        assert over.value.advice == "start the transfer anew"


async def _described(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether there is such a workflow, with an activity under way."""
    try:
        return bool((await handle.describe()).raw_description.pending_activities)
    except RPCError:
        return False


async def test_a_temporal_that_is_away_is_told_as_that() -> None:
    """Never reached, or gone meanwhile, or on its way down."""
    never = await Client.connect("127.0.0.1:1", lazy=True)
    async with temporal() as gone:
        await KnitClient(gone).ping()
    for client in (never, gone):
        with pytest.raises(EngineUnavailable, match="Temporal") as away:
            await KnitClient(client).ping()
        assert "does not answer" in away.value.advice

    async def not_serving(**_: object) -> bool:
        return False

    stopping = SimpleNamespace(service_client=SimpleNamespace(check_health=not_serving))
    with pytest.raises(EngineUnavailable):
        await KnitClient(stopping).ping()  # type: ignore[arg-type]


async def test_a_missing_namespace_is_told_as_that() -> None:
    """It is no transfer that is over, and trying again helps nobody."""
    async with temporal() as client:
        lost = KnitClient(
            await Client.connect(
                client.service_client.config.target_host,
                namespace="lost",
                data_converter=pydantic_data_converter,
            )
        )
        for call in (
            lost.open_upload(),
            lost.try_plan({}),
            lost.look_at_volumes("bytes", ["v"]),
            lost.test_hook("http://127.0.0.1:1", HookPhase.BEFORE),
        ):
            with pytest.raises(EngineUnavailable, match="no namespace 'lost'") as refused:
                await call
            assert "TEMPORAL_NAMESPACE" in refused.value.advice


async def test_a_push_that_no_worker_takes_up_ends_with_advice(postgres: EmbeddedPostgres) -> None:
    """Temporal is there, the workers are not: the sentence names them, after one lease."""
    async with knit_environment(postgres=postgres, work=False) as knit:
        client = KnitClient(knit.temporal, lease=timedelta(seconds=1), queues=knit.deps.queues)
        with pytest.raises(EngineUnavailable) as refused:
            await client.open_upload()
        assert refused.value.reason == "no worker is up that opens transfers"
        assert "role interactive" in refused.value.advice


class Slow(MemoryBackend):
    """One whose endpoints never open, for the reason it is given."""

    def __init__(self, error: type[Unavailable], reason: str | None = None) -> None:
        super().__init__()
        self._error = error, reason
        self.is_slow = True
        self.asked = asyncio.Event()
        self.on_close: Callable[[str], None] = lambda _: None

    async def close_transfer(self, transfer: Transfer) -> None:
        """Tells."""
        self.on_close(transfer.name)
        await super().close_transfer(transfer)

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Refuses."""
        self.asked.set()
        if not self.is_slow:
            return await super().open_transfer(transfer)
        kind, reason = self._error
        raise kind(reason)


@asynccontextmanager
async def attended_by_one(
    postgres: EmbeddedPostgres, backend: MemoryBackend
) -> AsyncIterator[Callable[[float], KnitClient]]:
    """A knit whose transfers have one slot; gives what makes a client with a lease in seconds."""
    async with knit_environment(postgres=postgres, backend=backend, work=False) as knit:
        worker = Worker(
            knit.temporal,
            task_queue=knit.deps.queues.interactive,
            plugins=[KnitPlugin(knit.deps, roles=frozenset({Role.INTERACTIVE}))],
            max_concurrent_activities=1,
        )

        def client(lease: float) -> KnitClient:
            seconds = timedelta(seconds=lease)
            return KnitClient(
                knit.temporal,
                lease=seconds,
                heartbeat=timedelta(seconds=PATIENCE),
                queues=knit.deps.queues,
            )

        async with worker:
            yield client


async def test_what_waits_behind_others_is_told_that_the_system_is_busy(
    postgres: EmbeddedPostgres,
) -> None:
    """And what has its turn, but is not ready, that it takes long: neither is the other."""
    backend = Slow(TransferNotReady)
    async with attended_by_one(postgres, backend) as client:
        first = asyncio.create_task(client(14).open_upload())
        await asyncio.wait_for(backend.asked.wait(), PATIENCE)
        others = [asyncio.create_task(client(6).open_upload()) for _ in range(3)]
        with pytest.raises(Busy) as busy:
            await client(4).open_upload()
        assert re.fullmatch(
            "the system is busy: the transfer was not opened within 4 s; [2-9] steps wait with it",
            busy.value.reason,
        )
        for one in others:  # one may have its turn while the first waits to be tried again
            with pytest.raises((Busy, TransferNotReady)):
                await one
        with pytest.raises(TransferNotReady) as slow:
            await first
        assert "not ready within 14 s" in slow.value.reason


async def test_a_back_end_that_does_not_answer_is_named(postgres: EmbeddedPostgres) -> None:
    reason = "the cluster does not answer"
    async with attended_by_one(postgres, Slow(BackendUnavailable, reason)) as client:
        for lease in (12, PATIENCE / 2):  # where all is slow, nobody was asked within the first
            with pytest.raises((BackendUnavailable, TransferNotReady)) as refused:
                await client(lease).open_upload()
            if refused.type is BackendUnavailable:
                break
        assert reason in refused.value.reason


async def test_what_was_not_opened_in_time_is_not_opened_later(postgres: EmbeddedPostgres) -> None:
    """Nobody would use the endpoint, and others would wait behind it."""
    async with knit_environment(postgres=postgres, work=False) as knit:
        client = KnitClient(knit.temporal, lease=timedelta(seconds=1), queues=knit.deps.queues)
        key = uuid.uuid4()
        with pytest.raises(EngineUnavailable):
            await client.open_upload(key)
        handle = knit.temporal.get_workflow_handle(
            names.transfer_workflow(upload_for_key(key).transfer_id)
        )
        for worker in workers(knit.temporal, knit.deps, frozenset({Role.INTERACTIVE})):
            async with worker:
                with pytest.raises(WorkflowFailureError) as ended:
                    await handle.result()
        assert isinstance(ended.value.cause, CancelledError)


def _workflow(knit: KnitEnvironment, transfer_id: str) -> WorkflowHandle[Any, Any]:
    return knit.temporal.get_workflow_handle(names.transfer_workflow(transfer_id))


async def test_an_endpoint_that_cannot_open_ends_by_itself_with_the_reason(
    postgres: EmbeddedPostgres,
) -> None:
    """Whatever kind of failure; the upload's Run fails, its volume is left to be collected."""
    reason = 'its claim data-knitid-x: storageclass "nope" not found'
    backend = Slow(QuotaExceeded, reason)
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        client = KnitClient(
            knit.temporal,
            lease=timedelta(seconds=60),
            opening=timedelta(seconds=1),
            grace=timedelta(seconds=PATIENCE),
            queues=knit.deps.queues,
        )
        key = uuid.uuid4()
        with pytest.raises(QuotaExceeded) as late:
            await client.open_upload(key)
        assert late.value.reason == f"the way to the Data was not ready within 1 s: {reason}"
        upload = upload_for_key(key)
        assert upload.run_id is not None
        run = await knit.final(upload.run_id)
        assert run.summary.status is RunStatus.FAILED
        assert run.summary.exit is not None
        assert reason in run.summary.exit.message
        await _workflow(knit, upload.transfer_id).result()
        with pytest.raises(DataNotFound, match="purged"):
            await knit.store.transfers.begin_download("later", upload.knit_id)
        discarded = await knit.store.housekeeping.discarded(older_than=timedelta(0), limit=9)
        assert upload.knit_id in [one.knit_id for one in discarded]


async def test_an_upload_that_is_stopped_while_it_opens_ends(postgres: EmbeddedPostgres) -> None:
    async with knit_environment(postgres=postgres, backend=Slow(TransferNotReady)) as knit:
        key = uuid.uuid4()
        upload = upload_for_key(key)
        assert upload.run_id is not None
        opening = asyncio.create_task(knit.knit.open_upload(key))
        async with asyncio.timeout(PATIENCE):
            while not await knit.store.runs.find(RunQuery()):
                await asyncio.sleep(0.1)
        await knit.store.runs.stop(upload.run_id, fail=True)
        with pytest.raises(Conflict, match="stopped before it could begin"):
            await opening
        assert (await knit.final(upload.run_id)).summary.status is RunStatus.FAILED


async def test_a_transfer_whose_client_leaves_while_it_opens_ends(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PROMPT", timedelta(seconds=PATIENCE))
    async with knit_environment(postgres=postgres, backend=Slow(TransferNotReady)) as knit:
        key = uuid.uuid4()
        upload = upload_for_key(key)
        assert upload.run_id is not None
        opening = asyncio.create_task(knit.knit.open_upload(key))
        async with asyncio.timeout(PATIENCE):
            while not await knit.store.runs.find(RunQuery()):
                await asyncio.sleep(0.1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert (await knit.final(upload.run_id)).summary.status is RunStatus.FAILED
        with pytest.raises(WorkflowFailureError) as ended:
            await _workflow(knit, upload.transfer_id).result()
        assert isinstance(ended.value.cause, CancelledError)


async def test_a_reader_whose_data_is_discarded_while_it_opens_hears_why(
    postgres: EmbeddedPostgres,
) -> None:
    """Its row is gone, by a retry or deletion; what it has opened so far is closed all the same."""
    backend = Slow(TransferNotReady)
    async with knit_environment(postgres=postgres, backend=backend) as knit:
        backend.is_slow = False
        knit_id = await knit.push({"type": "dataset"})
        backend.is_slow = True
        closed: list[str] = []
        backend.on_close = closed.append
        opening = asyncio.create_task(knit.knit.open_download(knit_id))
        async with asyncio.timeout(PATIENCE):
            while not (
                reading := await knit.store.housekeeping.stale_transfers(older_than=timedelta(0))
            ):
                await asyncio.sleep(0.1)
        await knit.store.transfers.closed(reading[0].transfer_id)
        with pytest.raises(Conflict, match="retried or deleted"):
            await opening
        await _workflow(knit, reading[0].transfer_id).result()
        assert closed == [names.transfer(knit_id, "read", reading[0].transfer_id)]


async def test_an_opening_that_breaks_for_good_is_answered(postgres: EmbeddedPostgres) -> None:
    """A bug, or a worker that dies each time: the workflow says so, the activity cannot."""

    class Broken(MemoryBackend):
        async def open_transfer(self, transfer: Transfer) -> Endpoint:
            raise ApplicationError("what is this", non_retryable=True)

    async with knit_environment(postgres=postgres, backend=Broken()) as knit:
        key = uuid.uuid4()
        with pytest.raises(EngineUnavailable, match="not opened: what is this"):
            await knit.knit.open_upload(key)
        run_id = upload_for_key(key).run_id
        assert run_id is not None
        assert (await knit.final(run_id)).summary.status is RunStatus.FAILED


class Pods(MemoryBackend):
    """One whose endpoints are pods: it tells which were opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.closed: list[str] = []

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Opens it."""
        await super().open_transfer(transfer)
        self.opened.append(transfer.name)
        return Endpoint("http://127.0.0.1:1/")

    async def close_transfer(self, transfer: Transfer) -> None:
        """Closes it."""
        self.closed.append(transfer.name)
        await super().close_transfer(transfer)


def lingering(seconds: float) -> EngineSettings:
    """Gives settings with which endpoints are kept for so long."""
    return QUICK.model_copy(update={"transfer_linger": timedelta(seconds=seconds)})


async def test_downloads_one_after_another_share_an_endpoint(postgres: EmbeddedPostgres) -> None:
    """And those at once; it is closed a while after the last, by whoever keeps it, once."""
    backend = Pods()
    async with knit_environment(
        postgres=postgres, backend=backend, engine=lingering(PATIENCE)
    ) as knit:
        knit_id = await knit.push({"type": "dataset"})
        backend.closed.clear()
        first = await knit.knit.open_download(knit_id)
        await knit.knit.finish(first, ok=True)
        for _ in range(2):
            both = [await knit.knit.open_download(knit_id) for _ in range(2)]
            for one in both:
                await knit.knit.finish(one, ok=True)
                await _workflow(knit, one.transfer_id).result()
        endpoint = names.transfer(knit_id, "read", first.transfer_id)
        assert [one for one in backend.opened if "-read-" in one] == [endpoint] * 5
        assert backend.closed == []
        assert await knit.store.transfers.get(first.transfer_id)
        await _workflow(knit, first.transfer_id).cancel()
        with pytest.raises(WorkflowFailureError):
            await _workflow(knit, first.transfer_id).result()
        assert backend.closed == [endpoint]
        with pytest.raises(NotFound):
            await knit.store.transfers.get(first.transfer_id)


async def test_an_endpoint_is_closed_a_while_after_its_last_reader(
    postgres: EmbeddedPostgres,
) -> None:
    backend = Pods()
    async with knit_environment(postgres=postgres, backend=backend, engine=lingering(0.1)) as knit:
        knit_id = await knit.push({"type": "dataset"})
        backend.closed.clear()
        reader = await knit.knit.open_download(knit_id)
        await knit.knit.finish(reader, ok=True)
        await _workflow(knit, reader.transfer_id).result()
        assert backend.closed == [names.transfer(knit_id, "read", reader.transfer_id)]
        assert await knit.store.housekeeping.stale_transfers(older_than=timedelta(0)) == []


async def test_an_endpoint_that_broke_is_not_kept(postgres: EmbeddedPostgres) -> None:
    """What went wrong may go wrong again: the next reader gets an endpoint of its own."""
    backend = Pods()
    async with knit_environment(
        postgres=postgres, backend=backend, engine=lingering(PATIENCE)
    ) as knit:
        knit_id = await knit.push({"type": "dataset"})
        backend.closed.clear()
        reader = await knit.knit.open_download(knit_id)
        await knit.knit.finish(reader, ok=False, reason="the agent is lost")
        await _workflow(knit, reader.transfer_id).result()
        assert backend.closed == [names.transfer(knit_id, "read", reader.transfer_id)]


async def test_an_endpoint_that_is_kept_is_closed_though_its_data_was_purged(
    postgres: EmbeddedPostgres,
) -> None:
    """The purge need not wait; whoever keeps the endpoint finds its row gone."""
    backend = Pods()
    async with knit_environment(postgres=postgres, backend=backend, engine=lingering(3)) as knit:
        knit_id = await knit.push({"type": "dataset"})
        backend.closed.clear()
        first, second = [await knit.knit.open_download(knit_id) for _ in range(2)]
        for one in (first, second):
            await knit.knit.finish(one, ok=True)
        await knit.store.data.purge(knit_id)
        await _workflow(knit, second.transfer_id).result()
        assert backend.closed == [names.transfer(knit_id, "read", first.transfer_id)]
