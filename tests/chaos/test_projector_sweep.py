"""The Projector survives kill -9 of its worker at every event of its history and at every commit.

Outbox events, admissions, starts and stops are under way meanwhile. Afterwards there is a Run for
each combination of Data, as a plain product says, and each task has run once, or never when its Run
was stopped before. `make test` takes some moments of each sweep, `make soak` all:
KNIT_SWEEP_MOMENTS.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.run_starter import start_projector
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.runs.run import RunDetail, RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from tests.chaos.gates import Gate
from tests.chaos.installation import Facts, Installation, eventually, installation
from tests.chaos.moments import AtEvent, Moment, chosen, commits
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.waiting import until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.engine, pytest.mark.slow]

AT_ONCE: Final = 2
SETTINGS: Final = {"KNIT_ENGINE__MAX_ACTIVE_RUNS": str(AT_ONCE), "KNIT_ENGINE__PAGE_SIZE": "1"}
"""Two Runs under way, the others wait; a long event goes on from its cursor after every Run."""
THIRD_DRAIN: Final = 17
"""Events: five up to the first drain, six for each further one."""
COMMITS: Final = (
    Gate("an event taken", "outbox", "DELETE", "OLD.kind <> 'stop_run'"),
    Gate("an event put back", "outbox", "INSERT", "NEW.cursor IS NOT NULL"),
    Gate(
        "an admission", "run", "UPDATE", "OLD.admitted_at IS NULL AND NEW.admitted_at IS NOT NULL"
    ),
    Gate(
        *("a start", "run", "UPDATE"),
        "OLD.workflow_started_at IS NULL AND NEW.workflow_started_at IS NOT NULL",
    ),
    Gate(
        *("the end of a Run without a workflow", "run", "UPDATE"),
        "NEW.status = 'failed' AND OLD.status = 'aborting' AND NEW.admitted_at IS NULL",
    ),
    Gate("a stop delivered", "outbox", "DELETE", "OLD.kind = 'stop_run'"),
)


@dataclass
class Scene:
    """A Plan of two inputs, two Data for each, and the Runs that these mean."""

    site: Installation
    plan_id: PlanId
    given: tuple[tuple[KnitId, KnitId], tuple[KnitId, KnitId]]

    async def runs(self, *statuses: RunStatus) -> Sequence[RunDetail]:
        """Gives the Runs with one of these statuses, or all."""
        return await self.site.store.runs.find(
            RunQuery(plan_ids=frozenset({self.plan_id}), statuses=frozenset(statuses))
        )

    async def until(self, count: int, *statuses: RunStatus) -> Sequence[RunDetail]:
        """Waits until so many Runs have one of these statuses; gives them."""

        async def are_there() -> bool:
            return len(await self.runs(*statuses)) == count

        await eventually(are_there)
        return await self.runs(*statuses)

    def starts(self, run: RunDetail) -> str:
        """Gives what the Run's task has written about its own starts."""
        output = run.outputs[0].knit_id
        assert output is not None
        counter = self.site.volume(output) / "counter"
        return counter.read_text() if counter.exists() else ""

    def let_go(self) -> None:
        """Lets every task end that waits, and those that start later at once."""
        for knit_id in self.given[0]:
            (self.site.volume(knit_id) / "go").touch()


async def three_data(site: Installation, mark: str) -> tuple[KnitId, KnitId, KnitId]:
    """Makes two Data for the one input and one for the other, of a Plan that is not there yet."""
    first = (await site.made(Tag("left", mark)))[1]
    second = (await site.made(Tag("left", mark)))[1]
    other = (await site.made(Tag("right", mark)))[1]
    await eventually(lambda: all_is_projected(site))
    return first, second, other


async def set_up(site: Installation, mark: str, given: tuple[KnitId, KnitId, KnitId]) -> Scene:
    """Commits the Plan, which means two Runs at once, and the fourth Data, which means two more."""
    plan = await site.apply(
        {
            "image": "host/sh:1",
            "entrypoint": [
                *("sh", "-c"),
                "echo x >> /out/counter; until [ -e /left/go ]; do sleep 0.05; done",
            ],
            "inputs": [
                {"path": "/left", "tags": [f"left:{mark}"]},
                {"path": "/right", "tags": [f"right:{mark}"]},
            ],
            "outputs": [{"path": "/out", "tags": [f"of:{mark}"]}],
        }
    )
    fourth = (await site.made(Tag("right", mark)))[1]
    return Scene(site, plan.summary.plan_id, ((given[0], given[1]), (given[2], fourth)))


async def projected(site: Installation, moment: Moment | None) -> Facts:
    """Has all of a scene's Runs made, some of them stopped; gives what is there then."""
    mark = uuid.uuid4().hex
    given = await three_data(site, mark)
    async with site.killed_at(moment):
        scene = await set_up(site, mark, given)
        await scene.until(4)
        under_way = await scene.until(AT_ONCE, RunStatus.RUNNING)
        waiting = await scene.until(4 - AT_ONCE, RunStatus.WAITING)
        await until(lambda: all(scene.starts(run) for run in under_way))
        unstarted, stopped = waiting[0].summary.run_id, under_way[0].summary.run_id
        # The one that waits first: the place of the other may not become its own.
        await site.store.runs.stop(unstarted, fail=True)
        await scene.until(1, RunStatus.FAILED)
        await site.store.runs.stop(stopped, fail=True)
        await scene.until(2, RunStatus.FAILED)
        scene.let_go()
        runs = [*await scene.until(2, RunStatus.DONE), *await scene.runs(RunStatus.FAILED)]
        await until(lambda: not site.left("pods"))
        await eventually(lambda: all_is_projected(site))
    return {
        "combinations": {tuple(one.knit_id for one in run.inputs) for run in runs}
        == set(product(*scene.given)),
        "runs": len(await scene.runs()),
        "starts": {how(run, unstarted, stopped): scene.starts(run) for run in runs},
        "statuses": {
            how(run, unstarted, stopped): [
                event.to_status
                for event in await site.store.runs.events(run.summary.run_id)
                if event.to_status is not RunStatus.RUNNING
            ]
            for run in runs
        },
        "workflows": await workflows_of(scene, runs),
    }


async def all_is_projected(site: Installation) -> bool:
    """Says whether no event is left."""
    return not await site.gates.ask("SELECT FROM outbox")


def how(run: RunDetail, unstarted: RunId, stopped: RunId) -> str:
    """Says what was done to a Run."""
    return {unstarted: "stopped before", stopped: "stopped"}.get(run.summary.run_id, "left alone")


async def workflows_of(scene: Scene, runs: Sequence[RunDetail]) -> list[str]:
    """Gives how many executions the Runs have had, and how they ended; none for the unstarted."""
    found = []
    for run in runs:
        workflow = names.run_workflow(run.summary.run_id, 1)
        await eventually(lambda workflow=workflow: is_listed(scene.site.temporal, workflow))  # type: ignore[misc]
        async for one in scene.site.temporal.list_workflows(f"WorkflowId = '{workflow}'"):
            await scene.site.temporal.get_workflow_handle(one.id, run_id=one.run_id).result()
            found.append(one.workflow_type)
    return found


async def is_listed(temporal: Client, workflow: str) -> bool:
    """Says whether its latest execution, if there is one, is in the lists, which come later."""
    try:
        latest = (await temporal.get_workflow_handle(workflow).describe()).run_id
    except RPCError as error:
        assert error.status is RPCStatusCode.NOT_FOUND
        return True
    listed = temporal.list_workflows(f"WorkflowId = '{workflow}'")
    return latest in [one.run_id async for one in listed]


async def test_events_admissions_and_stops_survive(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Each commit of the Projector, both when it took place unheard and when it did not."""
    need_bubblewrap()
    async with installation(postgres, temporal_client, tmp_path, *COMMITS, **SETTINGS) as site:
        expected = await projected(site, None)
        assert expected["combinations"]
        assert expected["runs"] == 4
        assert expected["starts"] == {"stopped before": "", "stopped": "x\n", "left alone": "x\n"}
        for moment in chosen(commits(COMMITS)):
            found = await projected(site, moment)
            assert found == expected, f"killed at {moment}"


# --- its history -------------------------------------------------------------------------------


async def renewed(site: Installation) -> WorkflowHandle[Any, Any]:
    """Starts the Projector anew, with drains so short that its history grows."""
    handle = site.temporal.get_workflow_handle(names.projector_workflow(0))
    if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
        await handle.terminate("by hand")
    request = ProjectorInput(
        engine_queue=names.ENGINE_QUEUE,
        compute_queue=names.ENGINE_QUEUE,
        watch_queue=names.WATCH_QUEUE,
        heartbeat=timedelta(seconds=2),
        drain_for=timedelta(milliseconds=200),
    )
    await start_projector(site.temporal, request)
    return handle


async def drained(site: Installation, moment: Moment | None) -> Facts:
    """Makes one Data that means one Run, while the Projector begins, drains, and drains again."""
    mark = uuid.uuid4().hex
    plan = await site.apply(
        {
            "image": "host/sh:1",
            "entrypoint": ["sh", "-c", "echo x >> /out/counter"],
            "inputs": [{"path": "/left", "tags": [f"one:{mark}"]}],
            "outputs": [{"path": "/out", "tags": [f"of:{mark}"]}],
        }
    )
    async with site.killed_at(moment) as followed:
        handle = await renewed(site)
        followed.set_result(handle)
        _, given = await site.made(Tag("one", mark))
        scene = Scene(site, plan.summary.plan_id, ((given, given), (given, given)))
        (run,) = await scene.until(1, RunStatus.DONE)
        await eventually(lambda: all_is_projected(site))
    return {
        "starts": scene.starts(run),
        "runs": len(await scene.runs()),
        "projector": (await handle.describe()).status,
    }


async def test_its_history_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """From its start to its third drain: what is committed meanwhile becomes one Run, run once."""
    need_bubblewrap()
    async with installation(postgres, temporal_client, tmp_path, **SETTINGS) as site:
        expected = await drained(site, None)
        assert expected == {
            "starts": "x\n",
            "runs": 1,
            "projector": WorkflowExecutionStatus.RUNNING,
        }
        for moment in chosen([AtEvent(number) for number in range(1, THIRD_DRAIN + 1)]):
            found = await drained(site, moment)
            assert found == expected, f"killed at {moment}"
