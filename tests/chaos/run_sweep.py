"""A Run of a real Plan and its worker, for sweeps over any back-end."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr
from temporalio.client import Client

from knit_workflows import names
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunDetail, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import LocalSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from tests.chaos.hook_record import assert_kept, in_force
from tests.chaos.moments import MOST, chosen
from tests.chaos.sweep import RECOVERY_SETTINGS, Remains, Sweep, history_of
from tests.processes import WorkerProcess
from tests.receiver import Receiver

SHORT, LONG = "0.2", "1.5"
"""Seconds: one activity sees a short Run through, a long one is watched."""
FolderOf = Callable[[Volume], Awaitable[Path]]


def _plan(image: str, lasts: str) -> dict[str, object]:
    task = (
        f"echo x >> /out/counter; echo said; cat /in/word; sleep {lasts}; echo whole > /out/result"
    )
    return {
        "image": image,
        "entrypoint": ["sh", "-c", task],
        "inputs": [{"path": "/in", "tags": ["type:dataset"]}],
        "outputs": [{"path": "/out", "tags": ["type:result"]}],
        "log": {"tags": ["type:log"]},
        "resources": {"cpu": "50m", "memory": "64Mi"},
    }


class Onlooker:
    """Makes inputs and looks at what Runs leave, past the worker that is killed."""

    def __init__(
        self,
        store: PostgresStore,
        backend: ComputeBackend,
        folder_of: FolderOf,
        hooks: Receiver | None,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._backend = backend
        self._folder_of = folder_of

    async def push(self) -> KnitId:
        """Makes a done Data with one file, as an upload would."""
        run_id, knit_id = RunId(str(uuid.uuid4())), KnitId(str(uuid.uuid4()))
        volume = Volume(names.volume(knit_id), knit_id)
        await self._backend.create_volume(volume)
        (await self._folder_of(volume) / "word").write_text("given\n")
        transfer_id = uuid.uuid4().hex
        await self._store.transfers.begin_upload(transfer_id, run_id, knit_id)
        await self._store.data.change_tags(
            knit_id, TagChange(add=frozenset({Tag("type", "dataset")}))
        )
        await self._store.transfers.closed(transfer_id)
        await self._store.execution.advance(RunKey(run_id, 1), RunStatus.COMPLETING, cause="pushed")
        await self._store.execution.finalize(RunKey(run_id, 1), cause="pushed")
        return knit_id

    async def remains(self, run: RunDetail) -> Remains:
        """Looks at the database, the files and the objects of an ended Run; and at its hooks."""
        assert run.log is not None
        if self._hooks is not None:
            await assert_kept(self._store, run.summary.run_id, self._hooks)
        files = await self._files(run.outputs[0].knit_id)
        return Remains(
            status=run.summary.status,
            exit_code=run.summary.exit.code if run.summary.exit else None,
            history=await history_of(self._store, run),
            starts=files.get("counter", "").count("x"),
            output=files.get("result", ""),
            log=(await self._files(run.log.knit_id)).get("log", ""),
            pods=sum(run.summary.run_id in name for name in await self._backend.run_pods()),
        )

    async def _files(self, knit_id: KnitId | None) -> dict[str, str]:
        assert knit_id is not None
        folder = await self._folder_of(Volume(names.volume(knit_id), knit_id))
        return {file.name: file.read_text() for file in folder.iterdir()}


@asynccontextmanager
async def sweep(
    postgres: EmbeddedPostgres,
    client: Client,
    compute: Mapping[str, str],
    logs: Path,
    backend: ComputeBackend,
    folder_of: FolderOf,
    image: str,
    lasts: str,
    hooks: Receiver | None = None,
) -> AsyncIterator[Sweep]:
    """A worker process with these settings; `backend` looks at the same objects from outside."""
    url = postgres.url(f"chaos_{uuid.uuid4().hex}")
    await migrate(url)
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    address = client.service_client.config.target_host
    settings = {"KNIT_STORE__URL": url, "TEMPORAL_ADDRESS": address}
    worker = WorkerProcess({**RECOVERY_SETTINGS, **compute, **settings}, logs)
    onlooker = Onlooker(store, backend, folder_of, hooks)
    await store.open()
    if hooks is not None:
        await store.hooks.configure(in_force(hooks))
    worker.start()
    try:
        await worker.ready()
        plan = await store.plans.register(parse_plan(_plan(image, lasts)), new_runs_limit=None)
        yield Sweep(client, store, worker, plan.summary.plan_id, onlooker.push, onlooker.remains)
    finally:
        worker.end()
        await store.aclose()


async def carry_out(sweep: Sweep, most: int = 2 * MOST) -> None:
    """Compares a Run killed after one of its events or statuses with an undisturbed one.

    Takes at most so many of these moments, evenly: neighbours are mostly the same to a worker.
    """
    expected, events = await sweep.undisturbed()
    assert expected.status == "done"
    moments = [*range(1, events + 1), *expected.history]
    for moment in chosen(moments, most):
        assert await sweep.killed_after(moment) == expected, f"killed after {moment}"


async def carry_out_locally(
    postgres: EmbeddedPostgres, client: Client, folder: Path, lasts: str
) -> None:
    """Carries a sweep out on this machine, where processes outlive knit."""
    state = folder / "state"
    compute = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": str(state)}
    backend = LocalBackend(LocalSettings(state=state))

    async def folder_of(volume: Volume) -> Path:
        return state / "volumes" / volume.name

    async with sweep(
        postgres, client, compute, folder, backend, folder_of, "host/sh:1", lasts
    ) as swept:
        expected, _ = await swept.undisturbed()
        assert (expected.starts, expected.output, expected.log, expected.pods) == (
            1,
            "whole\n",
            "said\ngiven\n",
            0,
        )
        await carry_out(swept)
