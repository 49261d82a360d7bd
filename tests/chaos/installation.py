"""A knit of real processes on one folder, of which the worker is killed at chosen moments."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import SecretStr
from temporalio.client import Client, WorkflowHandle

from knit_workflows import names
from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import PlanDetail
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import Role
from knit_workflows.settings import LocalSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from tests.chaos.gates import WORKER, Gate, Gates
from tests.chaos.moments import AtCommit, AtEvent, Moment, reached
from tests.chaos.sweep import RECOVERY_SETTINGS
from tests.chaos.wire import Wire
from tests.processes import ApiProcess, WorkerProcess
from tests.waiting import PATIENCE, until

Facts: TypeAlias = dict[str, object]
"""What is found afterwards: equal for what was disturbed and what was not."""
Followed: TypeAlias = "asyncio.Future[WorkflowHandle[Any, Any]]"


@dataclass
class Installation:
    """A worker process with the local back-end, and what looks at its work from outside."""

    temporal: Client
    store: PostgresStore
    backend: LocalBackend
    worker: WorkerProcess
    wire: Wire
    gates: Gates
    folder: Path
    environment: Mapping[str, str]
    """For further processes, which do not use the wire."""

    @property
    def state(self) -> Path:
        """Where the local back-end keeps what it has."""
        return self.folder / "compute"

    def volume(self, knit_id: KnitId) -> Path:
        """Gives the folder that is the volume of a Data, or would be."""
        return self.state / "volumes" / names.volume(knit_id)

    def left(self, kind: str) -> set[str]:
        """Gives the names of what there is: `volumes`, `transfers` or `pods`."""
        return {path.name for path in (self.state / kind).iterdir()}

    async def apply(self, document: Mapping[str, object]) -> PlanDetail:
        """Registers a Plan."""
        return await self.store.plans.register(parse_plan(document), new_runs_limit=None)

    async def made(self, *tags: Tag) -> tuple[RunId, KnitId]:
        """Makes a done Data with one file, past the worker; gives its upload's Run and its id."""
        run_id, knit_id = RunId(str(uuid.uuid4())), KnitId(str(uuid.uuid4()))
        await self.backend.create_volume(Volume(names.volume(knit_id), knit_id))
        (self.volume(knit_id) / "word").write_text("given\n")
        transfer_id = uuid.uuid4().hex
        await self.store.transfers.begin_upload(transfer_id, run_id, knit_id)
        await self.store.data.change_tags(knit_id, TagChange(add=frozenset(tags)))
        await self.store.transfers.closed(transfer_id)
        await self.store.execution.advance(RunKey(run_id, 1), RunStatus.COMPLETING, cause="pushed")
        await self.store.execution.finalize(RunKey(run_id, 1), cause="pushed")
        return run_id, knit_id

    @asynccontextmanager
    async def killed_at(
        self, moment: Moment | None, victim: ApiProcess | None = None
    ) -> AsyncIterator[Followed]:
        """Kills the worker at a moment that comes while inside, and starts another; None: do not.

        With `victim` it is that which is killed and started again. The workflow whose events are
        meant is to be set as the result of what is given.
        """
        followed: Followed = asyncio.get_running_loop().create_future()
        if moment is None:
            yield followed
            return
        if isinstance(moment, AtCommit):
            await self.gates.close(moment.gate)
        killing = asyncio.create_task(self._kill_at(moment, followed, victim))
        try:
            yield followed
            await killing
        finally:
            killing.cancel()
            if isinstance(moment, AtCommit):
                await self.gates.open(moment.gate)

    async def _kill_at(self, moment: Moment, followed: Followed, victim: ApiProcess | None) -> None:
        try:
            await self._comes(moment, followed)
        except TimeoutError as error:
            raise AssertionError(f"it never came to {moment}") from error
        self.kill() if victim is None else victim.kill()
        if isinstance(moment, AtCommit):
            if not moment.kept:
                await self.gates.turn_back(moment.gate)
            await self.gates.open(moment.gate)
        (victim or self.worker).start()

    async def _comes(self, moment: Moment, followed: Followed) -> None:
        match moment:
            case AtEvent(number):
                await reached(await followed, number)
            case AtCommit(gate):
                await self.gates.arrived(gate)
            case _:
                await until(moment.condition)

    def kill(self) -> None:
        """Kills the worker; nothing that it is just saying arrives."""
        self.wire.cut()
        self.worker.kill()


@asynccontextmanager
async def installation(
    postgres: EmbeddedPostgres,
    temporal: Client,
    folder: Path,
    *gates: Gate,
    roles: Sequence[Role] = (),
    **settings: str,
) -> AsyncIterator[Installation]:
    """Starts a worker with these settings, that of Runs' sweeps for the rest."""
    url = postgres.url(f"chaos_{uuid.uuid4().hex}")
    await migrate(url)
    state = folder / "compute"
    address = temporal.service_client.config.target_host
    environment = {
        **RECOVERY_SETTINGS,
        "KNIT_COMPUTE__KIND": "local",
        "KNIT_COMPUTE__LOCAL__STATE": str(state),
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": address,
        **settings,
    }
    async with AsyncExitStack() as stack:
        wire = Wire(address)
        await wire.open()
        stack.push_async_callback(wire.aclose)
        built = await Gates.built(url, gates)
        stack.push_async_callback(built.aclose)
        store = PostgresStore(StoreSettings(url=SecretStr(url)))
        await store.open()
        stack.push_async_callback(store.aclose)
        backend = LocalBackend(LocalSettings(state=state))
        await backend.open()
        stack.push_async_callback(backend.aclose)
        workers_own = {
            "KNIT_STORE__URL": f"{url}&application_name={WORKER}",
            "TEMPORAL_ADDRESS": wire.address,
        }
        worker = WorkerProcess({**environment, **workers_own}, folder, roles=roles)
        worker.start()
        # In a thread: it waits, and what the worker says last comes over the wire.
        stack.push_async_callback(asyncio.to_thread, worker.end)
        await worker.ready()
        await eventually(lambda: has_schedules(temporal))
        yield Installation(temporal, store, backend, worker, wire, built, folder, environment)


async def has_schedules(temporal: Client) -> bool:
    """Says whether the worker has made the Projector and, after it, both schedules."""
    return len([one async for one in await temporal.list_schedules()]) == 2


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits until something is the case that has to be asked for."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.05)
