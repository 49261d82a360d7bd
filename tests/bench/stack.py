"""The servers and the worker process that benches run against."""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
from pydantic import SecretStr
from temporalio.client import Client

from knit_workflows import names
from knit_workflows.client import KnitClient
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from knit_workflows.testing import embedded_postgres, temporal
from tests.processes import WorkerProcess


@dataclass
class Stack:
    """Everything of one bench; the worker is a process of its own."""

    temporal: Client
    store: PostgresStore
    url: str
    worker: WorkerProcess
    knit: KnitClient
    environment: Mapping[str, str]
    """What another process of the same stack needs."""

    async def commit_data(self, *tags: Tag, knit_id: KnitId | None = None) -> KnitId:
        """Makes a done Data with these tags by the store alone: what the end of an upload does."""
        run_id, knit_id = RunId(str(uuid.uuid4())), knit_id or KnitId(str(uuid.uuid4()))
        transfer_id = uuid.uuid4().hex
        await self.store.transfers.begin_upload(transfer_id, run_id, knit_id)
        await self.store.data.change_tags(knit_id, TagChange(add=frozenset(tags)))
        await self.store.transfers.closed(transfer_id)
        key = RunKey(run_id, 1)
        await self.store.execution.advance(key, RunStatus.COMPLETING, cause="bench")
        await self.store.execution.finalize(key, cause="bench")
        return knit_id

    async def upload(self, *tags: Tag) -> KnitId:
        """Makes a done Data by a real upload, so that its volume is there for the worker too."""
        opened = await self.knit.open_upload()
        await self.store.data.change_tags(opened.knit_id, TagChange(add=frozenset(tags)))
        await self.knit.finish(opened, ok=True)
        return opened.knit_id

    async def apply(self, document: Mapping[str, object]) -> PlanId:
        """Registers a Plan; gives its id."""
        plan = await self.store.plans.register(parse_plan(document), new_runs_limit=None)
        return plan.summary.plan_id

    async def run_of(self, plan_id: PlanId, knit_id: KnitId) -> None:
        """Waits until the Run of a Plan with this Data as an input is final, by notifications."""
        query = RunQuery(plan_ids=frozenset({plan_id}), input_knit_ids=frozenset({str(knit_id)}))
        async with self.endings() as endings:
            while not (runs := await self.store.runs.find(query)):
                await anext(endings)
            await self.store.runs.wait_final(runs[0].summary.run_id, fallback=timedelta(seconds=5))

    async def moves_of(self, plan_id: PlanId) -> list[dict[str, float]]:
        """Gives when each Run of a Plan got each status, in seconds since 1970."""
        runs = await self.store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
        return [
            {str(e.to_status): e.at.timestamp() for e in await self.store.runs.events(run_id)}
            for run_id in (run.summary.run_id for run in runs)
        ]

    async def settled(self) -> None:
        """Waits until the Projector has nothing left to do."""
        while await self.scalar("select count(*) from outbox"):
            await asyncio.sleep(0.1)

    async def until_done(self, count: int) -> None:
        """Waits until so many Runs (uploads not counted) are done, without asking often."""
        done = "select count(*) from run where status = 'done' and exists "
        inputs = "(select 1 from run_input where run_input.run_id = run.run_id)"
        while await self.scalar(done + inputs) < count:
            failed = await self.scalar("select count(*) from run where status = 'failed'")
            assert not failed, f"{failed} Runs failed: {self.worker.log.read_text()[-2000:]}"
            await asyncio.sleep(0.1)

    async def until_closed(self) -> None:
        """Waits until Temporal has no Run workflow left that is under way."""
        query = f"WorkflowType = '{names.RUN_WORKFLOW}' AND ExecutionStatus = 'Running'"
        while (await self.temporal.count_workflows(query)).count:
            await asyncio.sleep(0.1)

    async def scalar(self, statement: str) -> int:
        """Gives the one number that a query finds."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            row = await (await connection.execute(statement)).fetchone()
        assert row is not None
        return int(row[0])

    @asynccontextmanager
    async def endings(self) -> AsyncIterator[AsyncIterator[RunId]]:
        """Gives the ids of Runs that change their status, as their commits become visible."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {names.RUN_CHANNEL}")

            async def stream() -> AsyncGenerator[RunId, None]:
                async with aclosing(connection.notifies()) as notices:
                    async for notice in notices:
                        yield RunId(notice.payload)

            # A generator of notices that is merely left would hold the connection's lock.
            async with aclosing(stream()) as runs:
                yield runs


@asynccontextmanager
async def stack(environment: Mapping[str, str]) -> AsyncIterator[Stack]:
    """Starts PostgreSQL, Temporal on a file, and one worker process with these settings."""
    with tempfile.TemporaryDirectory(prefix="knit-bench-") as folder, embedded_postgres() as server:
        url = server.url(f"bench_{uuid.uuid4().hex}")
        await migrate(url)
        async with temporal(database=Path(folder) / "temporal.db") as client:
            store = PostgresStore(StoreSettings(url=SecretStr(url)))
            whole = {
                **os.environ,
                "KNIT_STORE__URL": url,
                "KNIT_QUEUES__COMPUTE": "knit",
                "KNIT_ACCOUNTS__REQUIRED": "false",
                "TEMPORAL_ADDRESS": client.service_client.config.target_host,
                **environment,
            }
            worker = WorkerProcess(whole, Path(folder))
            worker.start()
            try:
                await worker.ready()
                await store.open()
                knit = KnitClient(
                    client, lease=timedelta(seconds=60), queues=QueueSettings(compute="knit")
                )
                yield Stack(client, store, url, worker, knit, whole)
            finally:
                await store.aclose()
                worker.end()
