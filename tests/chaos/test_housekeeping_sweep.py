"""Tidying up survives kill -9 of its worker at every event of its histories and at every commit.

Nothing is deleted that should stay, nothing is left that should go, each turn ends, and of each
schedule there is exactly one, paused as somebody has left it. `make test` takes some moments of
each sweep, `make soak` all: KNIT_SWEEP_MOMENTS.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    WorkflowExecutionStatus,
    WorkflowHandle,
)
from temporalio.common import RawValue

from knit_workflows import names
from knit_workflows.client import KnitClient, TransferHandle
from knit_workflows.compute.base import RunPod
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import QueueSettings
from tests.chaos.gates import Gate
from tests.chaos.installation import Facts, Installation, eventually, installation
from tests.chaos.moments import AtEvent, Moment, When, chosen, commits
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.waiting import until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.engine, pytest.mark.slow]

GRACE: Final = timedelta(milliseconds=300)
SETTINGS: Final = {"KNIT_ENGINE__GC_INTERVAL": "PT1S", "KNIT_ENGINE__GC_GRACE_PERIOD": "PT0.3S"}
KINDS: Final = (names.GC_WORKFLOW, names.HOUSEKEEPING_WORKFLOW)
NOTE: Final = "everything stays as it is"
WAITS: Final = {
    "image": "host/sh:1",
    "entrypoint": [
        *("sh", "-c"),
        "echo x >> /out/counter; until [ -e /in/go ]; do sleep 0.05; done",
    ],
    "inputs": [{"path": "/in", "tags": ["sweep:housekeeping"]}],
    "outputs": [{"path": "/out", "tags": ["of:housekeeping"]}],
}
COLLECTED: Final = Gate("a volume collected", "discarded", "DELETE")
CLOSING: Final = (
    Gate("an upload or import aborted", "run", "UPDATE", "OLD.status <> NEW.status AND "
         "NEW.status = 'aborting'"),
    Gate("an upload or import failed", "run", "UPDATE", "OLD.status <> NEW.status AND "
         "NEW.status = 'failed'"),
    Gate("a lost transfer closed", "transfer", "DELETE"),
)  # fmt: skip


@dataclass
class Ground:
    """An installation with things that no turn may touch, of every kind that turns look at."""

    site: Installation
    knit: KnitClient
    plan_id: PlanId
    live: TransferHandle
    """An upload whose client is just slow."""
    done: tuple[RunId, KnitId]
    foreign_pod: str
    volumes: set[str]

    async def turn(self, kind: str) -> WorkflowHandle[Any, Any]:
        """Starts what the schedule starts, just as it would, under a name of its own."""
        described = await self.site.temporal.get_schedule_handle(kind).describe()
        action = described.schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        return await self.site.temporal.start_workflow(
            action.workflow,
            args=[RawValue(payload) for payload in action.args],
            id=f"{kind}-{uuid.uuid4().hex}",
            task_queue=action.task_queue,
            task_timeout=action.task_timeout,
        )

    async def schedules(self) -> list[tuple[str, bool, str | None]]:
        """Gives name, pause and note of all schedules that there are."""
        listed = [one.id async for one in await self.site.temporal.list_schedules()]
        states = [
            (await self.site.temporal.get_schedule_handle(one).describe()).schedule.state
            for one in sorted(listed)
        ]
        return [
            (one, state.paused, state.note)
            for one, state in zip(sorted(listed), states, strict=True)
        ]

    async def facts(self, handle: WorkflowHandle[Any, Any]) -> Facts:
        """Waits for the end of a turn; gives what holds for turns of both kinds."""
        await handle.result()
        await until(lambda: not self.site.left("trash"))
        live = await self.site.store.transfers.get(self.live.transfer_id)
        assert self.live.run_id is not None
        return {
            "volumes": self.site.left("volumes") ^ self.volumes,
            "pods": self.site.left("pods") ^ {self.foreign_pod},
            "endpoints": self.site.left("transfers")
            ^ {names.transfer(live.knit_id, "write", live.transfer_id)},
            "transfers": await self.count("transfer"),
            "discarded": await self.count("discarded"),
            "live": (await self.site.store.runs.get(self.live.run_id)).summary.status,
            "schedules": await self.schedules(),
        }

    async def count(self, table: str) -> int:
        """Counts the rows of a table."""
        return int((await self.site.gates.ask(f"SELECT count(*) FROM {table}"))[0][0])

    async def history(self, run_id: RunId) -> list[str]:
        """Gives the statuses of a Run in order."""
        return [event.to_status for event in await self.site.store.runs.events(run_id)]


@asynccontextmanager
async def ground(
    postgres: EmbeddedPostgres, temporal: Client, folder: Path, *gates: Gate
) -> AsyncIterator[Ground]:
    """Prepares everything; both schedules are paused by hand."""
    need_bubblewrap()
    async with installation(postgres, temporal, folder, *gates, **SETTINGS) as site:
        for kind in KINDS:
            await temporal.get_schedule_handle(kind).pause(note=NOTE)
        await eventually(lambda: no_turn_runs(temporal))
        knit = KnitClient(
            temporal,
            lease=timedelta(hours=1),
            heartbeat=timedelta(seconds=2),
            step_timeout=timedelta(seconds=2),
            queues=QueueSettings(compute="knit"),
        )
        live = await knit.open_upload()
        done = await site.made()
        plan = await site.apply(WAITS)
        foreign_volume = site.volume(KnitId(str(uuid.uuid4())))
        foreign_volume.mkdir()
        foreign_pod = names.run_pod(str(uuid.uuid4()), 1)
        await launch(site, foreign_pod)
        volumes = {foreign_volume.name, names.volume(done[1]), names.volume(live.knit_id)}
        yield Ground(site, knit, plan.summary.plan_id, live, done, foreign_pod, volumes)


async def no_turn_runs(temporal: Client) -> bool:
    """Says whether what the schedules began before they were paused has ended."""
    found = [await temporal.get_schedule_handle(kind).describe() for kind in KINDS]
    return not any(one.info.running_actions for one in found)


async def launch(site: Installation, pod: str) -> None:
    """Has a run pod that nobody looks after."""
    await site.backend.launch(
        RunPod(pod, str(uuid.uuid4()), 1, "plan", "host/sh:1", (), entrypoint=("true",))
    )


# --- knit.gc -----------------------------------------------------------------------------------


async def collect(ground: Ground, moment: Moment | None) -> tuple[Facts, int]:
    """Has three volumes deleted; gives what is there then, and the number of events."""
    for _ in range(3):
        run_id, _ = await ground.site.made()
        await ground.site.store.runs.delete(run_id)

    async def all_are_old() -> bool:
        return len(await ground.site.store.housekeeping.discarded(older_than=GRACE, limit=9)) == 3

    await eventually(all_are_old)
    async with ground.site.killed_at(moment) as followed:
        handle = await ground.turn(names.GC_WORKFLOW)
        followed.set_result(handle)
    return await ground.facts(handle), len((await handle.fetch_history()).events)


async def test_collecting_garbage_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Discarded volumes go, with their rows; a volume whose Data nobody knows stays."""
    async with ground(postgres, temporal_client, tmp_path, COLLECTED) as prepared:
        expected, events = await collect(prepared, None)
        assert expected["volumes"] == set()
        assert expected["discarded"] == 0
        moments = [*map(AtEvent, range(1, events + 1)), *commits([COLLECTED])]
        for moment in chosen(moments):
            found, _ = await collect(prepared, moment)
            assert found == expected, f"killed at {moment}"


# --- knit.housekeep ----------------------------------------------------------------------------


@dataclass
class Lost:
    """What a turn of housekeeping is to mend, to end or to remove."""

    run_id: RunId
    input: KnitId
    output: KnitId
    upload: TransferHandle
    imported: RunId
    pod: str


async def lose(ground: Ground) -> Lost:
    """Terminates a Run's, an upload's, a download's and the Projector's workflow.

    It leaves a pod, too, and an import that nobody ends.
    """
    site = ground.site
    _, given = await site.made(Tag("sweep", "housekeeping"))
    run_id, output = await running(ground, given)
    upload = await ground.knit.open_upload()
    (site.volume(upload.knit_id) / "half").write_text("half")
    download = await ground.knit.open_download(ground.done[1])
    begun = await site.store.imports.begin()
    older = "UPDATE run SET created_at = created_at - interval '1 day' WHERE run_id = %s"
    await site.gates.ask(f"{older} RETURNING run_id", begun.run_id)
    ground.volumes |= {names.volume(one) for one in (given, output, upload.knit_id)}
    pod = names.run_pod(ground.done[0], 1)
    await launch(site, pod)
    for workflow_id in (
        names.run_workflow(run_id, 1),
        names.transfer_workflow(upload.transfer_id),
        names.transfer_workflow(download.transfer_id),
        names.projector_workflow(0),
    ):
        await site.temporal.get_workflow_handle(workflow_id).terminate("by hand")
    return Lost(run_id, given, output, upload, begun.run_id, pod)


async def running(ground: Ground, given: KnitId) -> tuple[RunId, KnitId]:
    """Waits until the task of the Run of a Data runs; gives the Run and its output."""
    query = RunQuery(
        plan_ids=frozenset({ground.plan_id}),
        input_knit_ids=frozenset({str(given)}),
        statuses=frozenset({RunStatus.RUNNING}),
    )

    async def is_running() -> bool:
        return bool(await ground.site.store.runs.find(query))

    await eventually(is_running)
    (run,) = await ground.site.store.runs.find(query)
    output = run.outputs[0].knit_id
    assert output is not None
    await until(lambda: (ground.site.volume(output) / "counter").exists())
    return run.summary.run_id, output


async def all_are_old(ground: Ground) -> bool:
    """Says whether what is lost has been so for longer than the grace."""
    store = ground.site.store
    runs = await store.housekeeping.under_way(older_than=GRACE, after=None, limit=9)
    transfers = await store.housekeeping.stale_transfers(older_than=GRACE)
    return len(runs) == 1 and len(transfers) == 3


async def keep_house(ground: Ground, moment: Callable[[Lost], Moment] | None) -> tuple[Facts, int]:
    """Has everything mended; gives what is there then, and the number of events."""
    site = ground.site
    lost = await lose(ground)
    await eventually(lambda: all_are_old(ground))
    async with site.killed_at(moment and moment(lost)) as followed:
        handle = await ground.turn(names.HOUSEKEEPING_WORKFLOW)
        followed.set_result(handle)
        await handle.result()
        # Its workflow is there again, and goes on where the Run is.
        (site.volume(lost.input) / "go").touch()
        run = await site.store.runs.wait_final(lost.run_id, fallback=timedelta(seconds=1))
        await site.temporal.get_workflow_handle(names.run_workflow(lost.run_id, 1)).result()
        assert lost.upload.run_id is not None
    projector = site.temporal.get_workflow_handle(names.projector_workflow(0))
    found: Facts = {
        "run": run.summary.status,
        "history": await ground.history(lost.run_id),
        "starts": (site.volume(lost.output) / "counter").read_text(),
        "upload": await ground.history(lost.upload.run_id),
        "import": await ground.history(lost.imported),
        "projector": (await projector.describe()).status,
    }
    return await ground.facts(handle) | found, len((await handle.fetch_history()).events)


async def test_housekeeping_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """A Run goes on and its task is not started again; what is lost ends, what is live goes on."""
    async with ground(postgres, temporal_client, tmp_path, *CLOSING) as prepared:
        site = prepared.site
        expected, events = await keep_house(prepared, None)
        assert expected["starts"] == "x\n"
        assert expected["upload"] == ["running", "aborting", "failed"]
        assert expected["import"] == ["running", "aborting", "failed"]
        assert expected["projector"] is WorkflowExecutionStatus.RUNNING

        def pod_is_gone(lost: Lost) -> Moment:
            return When("a run pod removed", lambda: lost.pod not in site.left("pods"))

        def just(moment: Moment) -> Callable[[Lost], Moment]:
            return lambda _: moment

        moments = [
            *(just(AtEvent(number)) for number in range(1, events + 1)),
            *map(just, commits(CLOSING)),
            pod_is_gone,
        ]
        for moment in chosen(moments):
            found, _ = await keep_house(prepared, moment)
            assert found == expected, f"killed at {moment}"


# --- the schedules -----------------------------------------------------------------------------


async def test_schedules_go_on(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Left to themselves they clean up, however often their worker is killed meanwhile."""
    async with ground(postgres, temporal_client, tmp_path) as prepared:
        site = prepared.site
        for kind in KINDS:
            await temporal_client.get_schedule_handle(kind).unpause(note=NOTE)
        for _ in range(2):
            lost = await lose(prepared)
            deleted, _ = await site.made()
            await site.store.runs.delete(deleted)
            site.kill()
            site.worker.start()

            async def is_clean(lost: Lost = lost) -> bool:
                return (
                    await prepared.count("discarded") == 0
                    and await prepared.count("transfer") == 1
                    and site.left("pods") == {prepared.foreign_pod, names.run_pod(lost.run_id, 1)}
                )

            await eventually(is_clean)
            (site.volume(lost.input) / "go").touch()
            run = await site.store.runs.wait_final(lost.run_id, fallback=timedelta(seconds=1))
            assert run.summary.status is RunStatus.DONE
            assert (site.volume(lost.output) / "counter").read_text() == "x\n"
        assert site.left("volumes") == prepared.volumes
        assert await prepared.schedules() == [(kind, False, NOTE) for kind in KINDS]
