"""For users' tests and ours: a whole knit in one process, with real servers but no containers.

```python
async def test_my_workflow() -> None:
    async with knit_environment() as knit:
        data = await knit.push({"type": "dataset"})
        [run] = await knit.runs_of(plan_id, 1)    # waits until it is final
```
PostgreSQL and Temporal are real, embedded servers; only the back-end is the in-memory one, which
passes the same contract suite as the real ones.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from knit_workflows import names
from knit_workflows.client import KnitClient
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.compute.memory import MemoryBackend
from knit_workflows.domain.data import DataDetail, DataQuery, TagChange
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.model import PlanDetail
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.runs.run import RunDetail, RunQuery
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres, dev_server_settings
from knit_workflows.plugin import ALL_ROLES, Deps
from knit_workflows.provision.temporal_cli import obtain_temporal
from knit_workflows.settings import EngineSettings, HookSettings, QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from knit_workflows.worker import workers

__all__ = ["KnitEnvironment", "MemoryBackend", "embedded_postgres", "knit_environment", "temporal"]

QUICK = EngineSettings(
    heartbeat=timedelta(seconds=3),
    projector_heartbeat=timedelta(seconds=3),
    image_pull_deadline=timedelta(seconds=1),
    start_deadline=timedelta(seconds=2),
    stop_grace=timedelta(milliseconds=200),
    poll_interval=timedelta(seconds=2),
)
"""Short timeouts and intervals, so that tests do not wait long."""
PATIENCE: Final = timedelta(seconds=100)
"""What has not happened by then, on a machine that has other work too, will not happen."""


@contextmanager
def embedded_postgres() -> Iterator[EmbeddedPostgres]:
    """Runs a PostgreSQL server in a temporary folder; `.url(name)` creates a database on it."""
    with tempfile.TemporaryDirectory(prefix="knit-pg-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder) / "pg")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def temporal(database: Path | None = None) -> AsyncIterator[Client]:
    """Runs Temporal's dev server, in memory or on a file; gives a client with knit's converter.

    If the `temporal` program is missing it is downloaded or built once, which may take minutes.

    Raises:
        SetUpError: it is missing and cannot be obtained.
    """
    cli = await asyncio.to_thread(obtain_temporal)
    server = await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(cli),
        dev_server_database_filename=str(database) if database else None,
        dev_server_extra_args=dev_server_settings(file_database=database is not None),
        dev_server_startup_timeout=timedelta(seconds=60),
        dev_server_log_level="error",
    )
    try:
        yield server.client
    finally:
        await server.shutdown()


class KnitEnvironment:
    """A running knit: its store, back-end and Temporal client, and a few shortcuts."""

    def __init__(self, client: Client, deps: Deps, url: str) -> None:
        self.temporal = client
        self.store = deps.store
        self.backend = deps.backend
        self.deps = deps
        self.url = url
        self.knit = KnitClient(client, queues=deps.queues)

    async def push(self, tags: Mapping[str, str]) -> KnitId:
        """Uploads an empty Data with these tags; it is done and matched when this returns."""
        opened = await self.knit.open_upload()
        change = TagChange(add=frozenset(Tag(key, value) for key, value in tags.items()))
        await self.store.data.change_tags(opened.knit_id, change)
        await self.knit.finish(opened, ok=True)
        return opened.knit_id

    async def apply(self, document: Mapping[str, object]) -> PlanDetail:
        """Registers a Plan given as a Plan file's document."""
        return await self.store.plans.register(parse_plan(document), new_runs_limit=None)

    async def runs_of(
        self, plan_id: PlanId, count: int, *, within: timedelta = PATIENCE
    ) -> list[RunDetail]:
        """Waits until a Plan has `count` Runs and all of them are final; gives them."""
        async with asyncio.timeout(within.total_seconds()):
            while True:
                runs = await self.store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
                if len(runs) >= count:
                    return [await self.final(run.summary.run_id) for run in runs]
                await asyncio.sleep(0.02)

    async def kept(self) -> None:
        """Waits until the workers, which start meanwhile, have made the Projector and schedules."""
        projector = self.temporal.get_workflow_handle(names.projector_workflow(0))
        schedules = (names.GC_WORKFLOW, names.HOUSEKEEPING_WORKFLOW)
        made = [self.temporal.get_schedule_handle(name).describe for name in schedules]
        async with asyncio.timeout(PATIENCE.total_seconds()):
            for describe in (projector.describe, *made):
                await _until_there(describe)

    async def final(self, run_id: RunId) -> RunDetail:
        """Waits until a Run is final; gives it."""
        return await self.store.runs.wait_final(run_id, fallback=timedelta(seconds=1))

    async def data_with(self, tags: Mapping[str, str]) -> list[DataDetail]:
        """Gives the Data that have all these tags."""
        wanted = tuple(Tag(key, value) for key, value in tags.items())
        return list(await self.store.data.find(DataQuery(tags=wanted)))


async def _until_there(describe: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        else:
            return
        await asyncio.sleep(0.02)


@asynccontextmanager
async def knit_environment(
    *,
    backend: ComputeBackend | None = None,
    engine: EngineSettings = QUICK,
    postgres: EmbeddedPostgres | None = None,
    client: Client | None = None,
    work: bool = True,
    hooks: HookSettings | None = None,
) -> AsyncIterator[KnitEnvironment]:
    """Runs a knit of its own: database, Temporal server, workers.

    What is passed in is used and stays open; everything else is started and stopped. `backend`
    defaults to a `MemoryBackend` whose Runs succeed at once; `work=False` starts no worker; `hooks`
    says how hooks are called, if `store.hooks.configure` puts some in force.
    """
    async with AsyncExitStack() as stack:
        server = postgres or stack.enter_context(embedded_postgres())
        url = server.url(f"knit_{uuid.uuid4().hex}")
        await migrate(url)
        connected = client if client else await stack.enter_async_context(temporal())
        deps = Deps(
            PostgresStore(StoreSettings(url=SecretStr(url))),
            backend or MemoryBackend(),
            engine=engine,
            queues=QueueSettings(compute="knit"),
            hooks=hooks,
        )
        await stack.enter_async_context(deps.opened())
        for worker in workers(connected, deps, ALL_ROLES) if work else []:
            await stack.enter_async_context(worker)
        yield KnitEnvironment(connected, deps, url)
