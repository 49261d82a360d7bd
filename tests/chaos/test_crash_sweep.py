"""A Run survives kill -9 of its worker after every single event of its history."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from temporalio.client import Client

from knit_workflows.client import KnitClient
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.compute.local import LocalBackend, LocalSettings
from knit_workflows.compute.memory import MemoryBackend
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.plan_rules import parse_plan
from knit_workflows.domain.runs import RunDetail
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from tests.chaos.sweep import RECOVERY_SETTINGS, Remains, Sweep, history_of
from tests.processes import WorkerProcess

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

TASK = "echo x >> /out/counter; echo said; cat /in/word; sleep 0.2; echo whole > /out/result"
PLAN = {
    "image": "host/sh:1",
    "entrypoint": ["sh", "-c", TASK],
    "inputs": [{"path": "/in", "tags": ["type:dataset"]}],
    "outputs": [{"path": "/out", "tags": ["type:result"]}],
    "log": {"tags": ["type:log"]},
}


@asynccontextmanager
async def sweep(
    postgres: EmbeddedPostgres,
    client: Client,
    compute: Mapping[str, str],
    folder: Path,
    backend: ComputeBackend,
) -> AsyncIterator[Sweep]:
    """A worker process with these settings; `backend` looks at the same objects from outside."""
    url = postgres.url(f"chaos_{uuid.uuid4().hex}")
    await migrate(url)
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    knit = KnitClient(client, queues=QueueSettings(compute="knit"))
    address = client.service_client.config.target_host
    worker = WorkerProcess(
        {**RECOVERY_SETTINGS, **compute, "KNIT_STORE__URL": url, "TEMPORAL_ADDRESS": address},
        folder,
    )

    async def door(knit_id: KnitId) -> dict[str, str]:
        opened = await knit.open_download(knit_id)
        record = await store.transfer(opened.transfer_id)
        files = sorted(Path(urlsplit(record.endpoint).path).iterdir())
        content = {file.name: file.read_text() for file in files}
        await knit.finish(opened, ok=True)
        return content

    async def push() -> KnitId:
        opened = await knit.open_upload()
        record = await store.transfer(opened.transfer_id)
        (Path(urlsplit(record.endpoint).path) / "word").write_text("given\n")
        tags = frozenset({Tag("type", "dataset")})
        await store.change_tags(opened.knit_id, TagChange(add=tags))
        await knit.finish(opened, ok=True)
        return opened.knit_id

    async def remains(run: RunDetail) -> Remains:
        output = run.outputs[0].knit_id
        assert output is not None
        assert run.log is not None
        assert run.log.knit_id is not None
        files = await door(output)
        log = await door(run.log.knit_id)
        return Remains(
            status=run.summary.status,
            exit_code=run.summary.exit.code if run.summary.exit else None,
            history=await history_of(store, run),
            starts=files.get("counter", "").count("x"),
            output=files.get("result", ""),
            log=log.get("log", ""),
            pods=sum(run.summary.run_id in name for name in await backend.run_pods()),
        )

    await store.open()
    worker.start()
    try:
        await worker.ready()
        plan = await store.register_plan(parse_plan(PLAN), new_runs_limit=None)
        yield Sweep(client, store, worker, plan.summary.plan_id, push, remains)
    finally:
        worker.end()
        await store.aclose()


async def carry_out(sweep: Sweep) -> None:
    """Compare a Run killed after each of its events with an undisturbed one."""
    expected, events = await sweep.undisturbed()
    assert expected.status == "done"
    for event in range(1, events + 1):
        assert await sweep.killed_after(event) == expected, f"killed after event {event}"


@pytest.mark.engine
async def test_the_local_back_end_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Processes outlive knit: the task runs once, its result and whole log are found."""
    state = tmp_path / "state"
    compute = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": str(state)}
    backend = LocalBackend(LocalSettings(state=state))
    async with sweep(postgres, temporal_client, compute, tmp_path, backend) as swept:
        await carry_out(swept)


async def test_the_journal_of_the_memory_back_end_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """The quick twin: starts are counted by the journal instead of the task."""
    journal = tmp_path / "journal"
    compute = {"KNIT_COMPUTE__KIND": "memory", "KNIT_COMPUTE__MEMORY_JOURNAL": str(journal)}
    backend = MemoryBackend(journal=journal)
    async with sweep(postgres, temporal_client, compute, tmp_path, backend) as swept:
        await carry_out(swept)
        assert len(backend.launches) == len(set(backend.launches))
