"""Deletes discarded volumes, and reconciles the store with Temporal and the back-end.

Nothing younger than the grace period is touched.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.failures import translated
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.activities.run_starter import RunStarter, start_projector
from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.activities.transfers.transfer import ComputeTransferActivities
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.contracts.housekeeping import (
    HousekeepingActivities,
    HousekeepingInput,
    HousekeepingResult,
)
from knit_workflows.contracts.transfers import CloseTransfer
from knit_workflows.domain.errors import EngineUnavailable, KnitError, StorageFull
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import HousekeepingStore, RunKey, StartableRun, TransferRecord
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import EngineSettings

log = logging.getLogger(__name__)

BATCH: Final = 100
IMPORT_FINISHES: Final = timedelta(seconds=10)
"""How long the API, which has ended an import, may take to finish it."""


class StoreHousekeepingActivities(HousekeepingActivities):
    """The activities of `knit.gc` and `knit.housekeep`."""

    def __init__(
        self,
        store: HousekeepingStore,
        backend: ComputeBackend,
        transfers: ComputeTransferActivities,
        settings: EngineSettings,
    ) -> None:
        self._store = store
        self._backend = backend
        self._transfers = transfers
        self._settings = settings

    @activity.defn(name="knit.collect_garbage")
    async def collect_garbage(self, request: HousekeepingInput) -> HousekeepingResult:
        """Deletes discarded volumes, oldest first; one that cannot be deleted becomes the youngest.

        So however many there are of these, the others are deleted.
        """
        done, failed = 0, 0
        with translated():
            async with heartbeating():
                grace = await self._grace(request)
                while failed < BATCH:
                    found = await self._store.discarded(older_than=grace, limit=BATCH)
                    if not found:
                        break
                    for one in found:
                        try:
                            await self._backend.delete_volume(Volume(one.volume, one.knit_id))
                        except KnitError as error:
                            failed += 1
                            _failed("gc", "volume is not deleted", error, knit_id=one.knit_id)
                            await self._store.postponed(one.knit_id)
                            continue
                        await self._store.collected([one.knit_id])
                        done += 1
        return _logged("volumes_collected", HousekeepingResult(done=done, failed=failed))

    async def _grace(self, request: HousekeepingInput) -> timedelta:
        """Gives how long a discarded volume is kept: only briefly while disk space is short.

        Not zero: a launch that was in progress when its Run was deleted may still create volumes.
        """
        try:
            await self._backend.require_room()
        except StorageFull:
            return min(request.grace, self._settings.full_disk_grace_period)
        return request.grace

    @activity.defn(name="knit.remove_leftover_pods")
    async def remove_leftover_pods(self, request: HousekeepingInput) -> HousekeepingResult:
        """Removes run pods whose Run has been final, or in a later generation, for some time."""
        done, failed = 0, 0
        with translated():
            async with heartbeating():
                pods = {_key(name): name for name in await self._backend.run_pods()}
                keys = [key for key in pods if key is not None]
                for key in await self._store.over(keys, older_than=request.grace):
                    try:
                        await self._backend.stop(pods[key], grace=timedelta(0))
                    except KnitError as error:
                        failed += 1
                        _failed("reconcile", "run pod is not removed", error, run_id=key.run_id)
                        continue
                    done += 1
        return _logged("pods_removed", HousekeepingResult(done=done, failed=failed))

    @activity.defn(name="knit.end_lost_transfers")
    async def end_lost_transfers(self, request: HousekeepingInput) -> HousekeepingResult:
        """Closes transfers whose workflow no longer runs, and ends imports that nobody ends."""
        done, failed = 0, 0
        with translated():
            async with heartbeating():
                client = activity.client()
                for one in await self._store.stale_transfers(older_than=request.grace):
                    if await _is_running(client, names.transfer_workflow(one.transfer_id)):
                        continue
                    try:
                        await self._transfers.close(_lost(one))
                    except KnitError as error:
                        failed += 1
                        _failed("reconcile", "transfer is not closed", error, knit_id=one.knit_id)
                        continue
                    done += 1
                imports = await self._end_imports()
        done, failed = done + imports.done, failed + imports.failed
        return _logged("transfers_ended", HousekeepingResult(done=done, failed=failed))

    async def _end_imports(self) -> HousekeepingResult:
        """Ends the oldest; the next turn ends more."""
        done, failed = 0, 0
        for one in await self._store.unfinished_imports(
            window=self._settings.import_window, older_than=IMPORT_FINISHES, limit=BATCH
        ):
            try:
                await self._transfers.end_import(one)
            except KnitError as error:
                failed += 1
                _failed("reconcile", "import is not ended", error, run_id=one.key.run_id)
                continue
            done += 1
        return HousekeepingResult(done=done, failed=failed)

    @activity.defn(name="knit.restart_lost_runs")
    async def restart_lost_runs(self, request: HousekeepingInput) -> HousekeepingResult:
        """Restarts workflows that were terminated, or that Temporal does not know.

        The new execution goes on where the store says that the Run is. Before that it moves the
        Runs that an interrupted (de)activation of their Plan has left.
        """
        done = 0
        with translated():
            async with heartbeating():
                await self._finish_activations()
                client = activity.client()
                await start_projector(client, request.projector)
                attributes = await search_attributes_known(client)
                starter = RunStarter(
                    client, request.projector, self._settings, attributes=attributes
                )
                async for run in self._unchanged(request.grace):
                    workflow_id = names.run_workflow(run.key.run_id, run.key.generation)
                    if await _is_running(client, workflow_id) or await self._is_over(run.key):
                        continue
                    await starter.start([run], restart=True)
                    log.warning(
                        "lost workflow of a run restarted",
                        extra={"action": "run_restarted", "run_id": run.key.run_id},
                    )
                    done += 1
        return _logged("runs_restarted", HousekeepingResult(done=done))

    async def _finish_activations(self) -> None:
        moved = await self._store.finish_activations()
        if moved:
            log.info("runs moved with their plan", extra={"action": "runs_moved", "runs": moved})

    async def _is_over(self, key: RunKey) -> bool:
        """Looks once more: a Run that has ended since it was found was recorded first."""
        return bool(await self._store.over([key], older_than=timedelta(0)))

    async def _unchanged(self, grace: timedelta) -> AsyncIterator[StartableRun]:
        after: RunId | None = None
        while runs := await self._store.under_way(older_than=grace, after=after, limit=BATCH):
            for run in runs:
                yield run
            after = runs[-1].key.run_id


async def _is_running(client: Client, workflow_id: str) -> bool:
    try:
        description = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise EngineUnavailable from error
    return description.status is WorkflowExecutionStatus.RUNNING


def _lost(transfer: TransferRecord) -> CloseTransfer:
    return CloseTransfer(
        transfer_id=transfer.transfer_id,
        run_id=transfer.run_id if transfer.mode == "write" else "",
        ok=False,
        reason="its workflow was lost",
    )


def _key(pod_name: str) -> RunKey | None:
    found = names.run_of_pod(pod_name)
    return None if found is None else RunKey(RunId(found[0]), found[1])


def _failed(step: str, what: str, error: KnitError, **ids: str) -> None:
    log.warning(what, extra={"action": f"{step}_failed", "reason": error.reason, **ids})


def _logged(action: str, result: HousekeepingResult) -> HousekeepingResult:
    if result.done or result.failed:
        what = action.replace("_", " ")
        log.info(what, extra={"action": action, "count": result.done, "failed": result.failed})
    return result
