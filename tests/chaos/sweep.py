"""The crash sweep: kill -9 of the worker after events and statuses of a Run, in turn.

What is left behind afterwards must be what an undisturbed Run leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import Store
from knit_workflows.domain.runs.run import RunDetail, RunQuery
from tests.chaos.moments import reached
from tests.processes import WorkerProcess

RECOVERY_SETTINGS = {
    "KNIT_ENGINE__HEARTBEAT": "PT2S",
    "KNIT_ENGINE__STEP_TIMEOUT": "PT2S",
    "KNIT_ENGINE__PROJECTOR_HEARTBEAT": "PT2S",
    "KNIT_ENGINE__POLL_INTERVAL": "PT2S",
    "KNIT_QUEUES__COMPUTE": "knit",
}
"""Short time-outs: a killed worker is missed soon. For the sweeps of all types of workflows."""
WITHIN = timedelta(seconds=300)


@dataclass(frozen=True)
class Remains:
    """What a Run left: equal for a disturbed and an undisturbed one."""

    status: str
    exit_code: int | None
    history: tuple[str, ...]
    """Statuses in order, each once; without running, which a killed worker may never see."""
    starts: int
    """How often the task was started, by the counter it writes itself."""
    output: str
    log: str
    pods: int
    """Objects that are still there."""


@dataclass
class Sweep:
    """One back-end's sweep. `push` makes a new Data that starts one Run; `remains` looks at it."""

    temporal: Client
    store: Store
    worker: WorkerProcess
    plan_id: PlanId
    push: Callable[[], Awaitable[KnitId]]
    remains: Callable[[RunDetail], Awaitable[Remains]]

    async def undisturbed(self) -> tuple[Remains, int]:
        """Carries out one Run in peace; gives what it left, and the number of its events."""
        run_id = await self._run_of(await self.push())
        remains = await self._end(run_id)
        handle = self.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        await handle.result()
        return remains, len((await handle.fetch_history()).events)

    async def killed_after(self, moment: int | str) -> Remains:
        """Kills the worker as soon as the Run's history has so many events, or the Run has had this
        status; start another."""
        run_id = await self._run_of(await self.push())
        if isinstance(moment, int):
            await reached(self.temporal.get_workflow_handle(names.run_workflow(run_id, 1)), moment)
        else:
            await self._had(run_id, moment)
        self.worker.kill()
        self.worker.start()
        return await self._end(run_id)

    async def _run_of(self, knit_id: KnitId) -> RunId:
        query = RunQuery(
            plan_ids=frozenset({self.plan_id}), input_knit_ids=frozenset({str(knit_id)})
        )
        async with asyncio.timeout(WITHIN.total_seconds()):
            while True:
                runs = await self.store.runs.find(query)
                if runs:
                    return runs[0].summary.run_id
                await asyncio.sleep(0.005)

    async def _had(self, run_id: RunId, status: str) -> None:
        async with asyncio.timeout(WITHIN.total_seconds()):
            while status not in {event.to_status for event in await self.store.runs.events(run_id)}:
                await asyncio.sleep(0.001)

    async def _end(self, run_id: RunId) -> Remains:
        async with asyncio.timeout(WITHIN.total_seconds()):
            await self.store.runs.wait_final(run_id, fallback=timedelta(seconds=1))
            handle = self.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
            await handle.result()
        return await self.remains(await self.store.runs.get(run_id))


async def history_of(store: Store, run: RunDetail) -> tuple[str, ...]:
    """Gives the statuses of a Run in order."""
    events = await store.runs.events(run.summary.run_id)
    return tuple(event.to_status for event in events if event.to_status != "running")
