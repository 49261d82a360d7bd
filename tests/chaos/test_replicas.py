"""Workers side by side, of which one is killed: the others go on with all that it held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.runs.run import RunDetail, RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from tests.chaos.installation import Installation, eventually, installation
from tests.processes import WorkerProcess

pytestmark = pytest.mark.timeout(1200)

REPLICAS = 4
RUNS = 4
GIVEN = Tag("type", "given")
TASK = "echo x >> /out/counter; until test -e /in/go; do sleep 0.1; done; echo whole > /out/result"
PLAN = {
    "image": "host/sh:1",
    "entrypoint": ["sh", "-c", TASK],
    "inputs": [{"path": "/in", "tags": [str(GIVEN)]}],
    "outputs": [{"path": "/out", "tags": ["type:result"]}],
    "log": {"tags": ["type:log"]},
    "resources": {"cpu": "50m", "memory": "64Mi"},
}


@pytest.mark.engine
@pytest.mark.slow
async def test_the_others_take_over_what_a_killed_worker_held(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Its watches first, while the containers go on; then nothing shows that it was killed."""
    # Watched from the start, so that every Run is held by somebody.
    settings = {"KNIT_ENGINE__SHORT_RUN_WAIT": "PT0S", "KNIT_ENGINE__MAX_ACTIVE_RUNS": "16"}
    async with (
        installation(postgres, temporal_client, tmp_path, **settings) as knit,
        replicas(knit, REPLICAS - 1) as others,
    ):
        plan_id = (await knit.apply(PLAN)).summary.plan_id
        given = [(await knit.made(GIVEN))[1] for _ in range(RUNS)]
        await eventually(lambda: has(knit, plan_id, RunStatus.RUNNING, RUNS))
        runs = [run.summary.run_id for run in await runs_of(knit, plan_id)]
        await eventually(lambda: are_watched(knit, runs))

        held = set((await watchers(knit, runs)).values())
        victim = next(w for w in (knit.worker, *others) if identity_begins(w, held))
        if victim is knit.worker:
            knit.kill()
        else:
            victim.kill()
        await eventually(lambda: are_watched(knit, runs, but_not_by=victim))

        # The Projector may have been its as well: it is to find and start what comes now.
        given.append((await knit.made(GIVEN))[1])
        await eventually(lambda: has(knit, plan_id, RunStatus.RUNNING, RUNS + 1))
        for knit_id in given:
            (knit.volume(knit_id) / "go").touch()
        await eventually(lambda: has(knit, plan_id, RunStatus.DONE, RUNS + 1))
        await assert_each_ran_once(knit, plan_id)


@asynccontextmanager
async def replicas(knit: Installation, count: int) -> AsyncIterator[Sequence[WorkerProcess]]:
    """Starts so many further workers of the same installation."""
    async with AsyncExitStack() as stack:
        workers = []
        for number in range(count):
            logs = knit.folder / f"replica-{number}"
            logs.mkdir()
            worker = WorkerProcess(knit.environment, logs)
            worker.start()
            stack.callback(worker.end)
            workers.append(worker)
        for worker in workers:
            await worker.ready()
        yield workers


async def runs_of(knit: Installation, plan_id: PlanId) -> Sequence[RunDetail]:
    """Gives all Runs of a Plan."""
    return await knit.store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))


async def has(knit: Installation, plan_id: PlanId, status: RunStatus, count: int) -> bool:
    """Says whether so many Runs of a Plan have a status; none may have failed."""
    statuses = [run.summary.status for run in await runs_of(knit, plan_id)]
    assert RunStatus.FAILED not in statuses, statuses
    return statuses.count(status) == count


async def watchers(knit: Installation, runs: Sequence[RunId]) -> dict[RunId, str]:
    """Gives, by Run, the identity of the worker that watches its pod."""
    found = {}
    for run_id in runs:
        handle = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        for one in (await handle.describe()).raw_description.pending_activities:
            started = one.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            if one.activity_type.name == "knit.watch_run" and started:
                found[run_id] = one.last_worker_identity
    return found


async def are_watched(
    knit: Installation, runs: Sequence[RunId], *, but_not_by: WorkerProcess | None = None
) -> bool:
    """Says whether somebody else watches each of these Runs."""
    found = await watchers(knit, runs)
    own = but_not_by is not None and identity_begins(but_not_by, set(found.values()))
    return len(found) == len(runs) and not own


def identity_begins(worker: WorkerProcess, identities: set[str]) -> bool:
    """Says whether one of these identities, `PID@HOST` each, is a worker's."""
    return any(one.startswith(f"{worker.pid}@") for one in identities)


async def assert_each_ran_once(knit: Installation, plan_id: PlanId) -> None:
    """No container was started twice, each result is whole, no Run was launched again."""
    for run in await runs_of(knit, plan_id):
        out = knit.volume(KnitId(run.outputs[0].knit_id))
        assert (out / "counter").read_text() == "x\n"
        assert (out / "result").read_text() == "whole\n"
        moves = [str(e.to_status) for e in await knit.store.runs.events(run.summary.run_id)]
        assert moves == ["waiting", "ready", "starting", "running", "completing", "done"]
