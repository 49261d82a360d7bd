"""Whether Temporal and the database agree: Runs, transfers, and what must run at any time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import RunKey, StartableRun, Store
from knit_workflows.inspection.findings import Finding, Repair

_AT_ONCE: Final = 16
_PAGE: Final = 500
_TIMEOUT: Final = timedelta(seconds=10)


class EngineChecks:
    """What they look at is older than `grace`: younger things may be on their way."""

    def __init__(
        self, client: Client, store: Store, counted: Counter[str], grace: timedelta
    ) -> None:
        self._client = client
        self._store = store
        self._counted = counted
        self._grace = grace
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def upkeep(self) -> AsyncIterator[Finding]:
        """Looks for the Projector and the schedules."""
        projector = names.projector_workflow(0)
        if not await self._runs(projector):
            yield Finding(
                "upkeep",
                projector,
                "it does not run: no commit becomes a Run",
                "start a worker with the role engine; one that is up does it within a minute",
                Repair.UPKEEP,
            )
        for name in (names.GC_WORKFLOW, names.HOUSEKEEPING_WORKFLOW):
            if finding := await self._schedule(name):
                yield finding

    async def _schedule(self, name: str) -> Finding | None:
        try:
            found = await self._client.get_schedule_handle(name).describe(rpc_timeout=_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            cure = "start a worker with the role engine; one that is up does it within a minute"
            return Finding("upkeep", name, "there is no such schedule", cure, Repair.UPKEEP)
        if found.schedule.state.paused:
            note = found.schedule.state.note
            message = f"the schedule is paused: {note}" if note else "the schedule is paused"
            return Finding("upkeep", name, message, "unpause it in Temporal's Web UI")
        return None

    async def runs(self) -> AsyncIterator[Finding]:
        """Looks for Runs under way whose workflow does not run."""
        after: RunId | None = None
        under_way = self._store.housekeeping.under_way
        while page := await under_way(older_than=self._grace, after=after, limit=_PAGE):
            self._counted["Runs under way"] += len(page)
            for key in await self._without_workflow(page):
                yield Finding(
                    "runs",
                    f"Run {key.run_id}",
                    f"its workflow {names.run_workflow(key.run_id, key.generation)} does not run",
                    "the reconciliation starts it again, once the Run is older than "
                    "KNIT_ENGINE__GC_GRACE_PERIOD",
                    Repair.RECONCILE,
                )
            after = page[-1].key.run_id
        for key in await self._store.agreement.unstarted(older_than=self._grace, limit=_PAGE):
            yield Finding(
                "runs",
                f"Run {key.run_id}",
                "it was admitted, and no workflow was started",
                "see that the Projector runs: a worker with the role engine, its log",
                Repair.UPKEEP,
            )

    async def _without_workflow(self, page: Sequence[StartableRun]) -> list[RunKey]:
        keys = [one.key for one in page]
        there = await asyncio.gather(
            *(self._runs(names.run_workflow(key.run_id, key.generation)) for key in keys)
        )
        lost = [key for key, runs in zip(keys, there, strict=True) if not runs]
        # What has ended meanwhile was recorded before its workflow ended.
        over = await self._store.housekeeping.over(lost, older_than=timedelta(0))
        return [key for key in lost if key not in over]

    async def workflows(self) -> AsyncIterator[Finding]:
        """Looks for workflows whose Run is unknown.

        They are found by Temporal's visibility, which lags, and each is asked for itself.
        """
        query = f"WorkflowType = '{names.RUN_WORKFLOW}' AND ExecutionStatus = 'Running'"
        page: list[RunKey] = []
        started_before = datetime.now(UTC) - self._grace
        async for one in self._client.list_workflows(query, page_size=_PAGE):
            self._counted["workflows of Runs"] += 1
            found = names.run_of_workflow(one.id)
            if found is not None and one.start_time < started_before:
                page.append(RunKey(RunId(found[0]), found[1]))
            if len(page) >= _PAGE:
                for finding in await self._orphans(page):
                    yield finding
                page = []
        for finding in await self._orphans(page):
            yield finding

    async def _orphans(self, keys: Sequence[RunKey]) -> list[Finding]:
        known = await self._store.agreement.present([key.run_id for key in keys])
        found = []
        for key in keys:
            workflow_id = names.run_workflow(key.run_id, key.generation)
            if key.run_id in known or not await self._runs(workflow_id):
                continue
            found.append(
                Finding(
                    "workflows",
                    workflow_id,
                    "it runs, and the database does not know its Run",
                    f"temporal workflow terminate --workflow-id {workflow_id}",
                    Repair.TERMINATE,
                )
            )
        return found

    async def transfers(self) -> AsyncIterator[Finding]:
        """Looks for transfers whose workflow does not run."""
        stale = self._store.housekeeping.stale_transfers
        found = await stale(older_than=self._grace)
        self._counted["transfers"] += len(found)
        there = await asyncio.gather(
            *(self._runs(names.transfer_workflow(one.transfer_id)) for one in found)
        )
        # What was closed meanwhile has lost its row before its workflow ended.
        left = {one.transfer_id for one in await stale(older_than=self._grace)}
        for one, runs in zip(found, there, strict=True):
            if not runs and one.transfer_id in left:
                yield Finding(
                    "transfers",
                    f"Data {one.knit_id}",
                    f"the {one.mode} transfer {one.transfer_id} is left over: its workflow does "
                    "not run",
                    "the reconciliation closes it, once it is older than "
                    "KNIT_ENGINE__GC_GRACE_PERIOD; an upload has failed: push again",
                    Repair.RECONCILE,
                )

    async def _runs(self, workflow_id: str) -> bool:
        async with self._gate:
            try:
                described = await self._client.get_workflow_handle(workflow_id).describe(
                    rpc_timeout=_TIMEOUT
                )
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return False
                raise
            return described.status is WorkflowExecutionStatus.RUNNING
