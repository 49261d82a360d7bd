"""Keeps in Temporal what must run there, and recovers what is under way if Temporal lost it all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.run_starter import projector_left_behind, start_projector
from knit_workflows.contracts.housekeeping import HousekeepingInput, HousekeepingResult
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.ports import HousekeepingStore
from knit_workflows.settings import EngineSettings
from knit_workflows.upkeep.schedules import ensure_schedules
from knit_workflows.workflows.housekeeping import HousekeepingWorkflow

log = logging.getLogger(__name__)

_TIMEOUT: Final = timedelta(seconds=10)


class Keeper:
    """Looks whether Temporal knows knit's schedules; every worker with the role `engine` has one.

    A missing schedule is made again. A Temporal that does not know that of the reconciliation is a
    new one, or has lost its database or its namespace with all workflows. Then one turn of the
    reconciliation, without its usual grace, starts the workflows of all Runs under way again; each
    goes on where the store says that it is. That turn is a workflow too, begun before the schedules
    are made: whoever dies in between, another Keeper finds none and begins it again.

    It looks too whether the Projector was left behind on a task queue that has no workers any more.
    """

    def __init__(
        self,
        client: Client,
        store: HousekeepingStore,
        request: HousekeepingInput,
        settings: EngineSettings,
    ) -> None:
        self._client = client
        self._store = store
        self._request = request
        self._settings = settings

    async def ensure(self) -> None:
        """Makes what is missing, and updates the schedules; raises RPCError."""
        if not await self._is_known(names.HOUSEKEEPING_WORKFLOW):
            await self._recover_if_needed()
        await start_projector(self._client, self._request.projector)
        await ensure_schedules(self._client, self._request, self._settings)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Ensures at once, and while inside whenever a look finds that something is missing."""
        await self.ensure()
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval.total_seconds())
            try:
                if await self._is_incomplete():
                    await self.ensure()
            except (
                RPCError,
                RuntimeError,
                KnitError,
            ) as error:  # an outage: the next look will see
                log.debug("schedules are not looked at: %s", error)

    async def _is_incomplete(self) -> bool:
        for name in (names.HOUSEKEEPING_WORKFLOW, names.GC_WORKFLOW):
            if not await self._is_known(name):
                return True
        return await projector_left_behind(self._client, self._request.projector) is not None

    async def _is_known(self, name: str) -> bool:
        schedule = self._client.get_schedule_handle(name)
        try:
            await schedule.describe(rpc_timeout=_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _recover_if_needed(self) -> None:
        """Begins the recovery, unless nothing is under way, as before the first Run of all."""
        now = timedelta(0)
        if not await self._store.under_way(older_than=now, after=None, limit=1) and not (
            await self._store.stale_transfers(older_than=now)
        ):
            return
        await self.reconcile(grace=now)
        log.warning(
            "Temporal does not know what the database has under way: it is started again",
            extra={"action": "engine_recovered"},
        )

    async def reconcile(
        self, *, grace: timedelta
    ) -> WorkflowHandle[HousekeepingWorkflow, HousekeepingResult]:
        """Begins a turn of the reconciliation with this grace, or finds the one that is under way.

        Raises:
            RPCError: Temporal does not take it.
        """
        return await self._client.start_workflow(
            HousekeepingWorkflow.run,
            self._request.model_copy(update={"grace": grace}),
            id=names.RECOVERY_WORKFLOW,
            task_queue=self._request.projector.engine_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            task_timeout=self._settings.step_timeout,
            rpc_timeout=_TIMEOUT,
            static_summary="reconciles at once, out of turn",
        )
