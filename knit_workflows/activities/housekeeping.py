"""What tidying up does in the world. Nothing younger than the grace period is touched.

Objects of a back-end are removed only where the store knows that they are over: two installations
may share a namespace, and a database may have been restored from a backup.
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
from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.activities.starting import RunStarter, start_projector
from knit_workflows.activities.transfers import ComputeTransferActivities
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.contracts.housekeeping import (
    HousekeepingActivities,
    HousekeepingInput,
    Tidied,
)
from knit_workflows.contracts.transfers import CloseTransfer
from knit_workflows.domain.errors import EngineUnavailable, KnitError, StorageFull
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import HousekeepingStore, RunKey, StartableRun, TransferRecord
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import EngineSettings

log = logging.getLogger(__name__)

BATCH: Final = 100
SHORT_GRACE: Final = timedelta(seconds=5)
"""For a launch that was under way when its Run was deleted: it makes empty volumes at most."""


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
    async def collect_garbage(self, request: HousekeepingInput) -> Tidied:
        """Deletes discarded volumes, oldest first. One that resists does not keep the others."""
        done, failed = 0, 0
        with translated():
            async with heartbeating():
                grace = await self._grace(request)
                while failed < BATCH:
                    found = await self._store.discarded(older_than=grace, limit=BATCH + failed)
                    if len(found) <= failed:
                        break
                    # Those that resisted come first again.
                    for one in found[failed:]:
                        try:
                            await self._backend.delete_volume(Volume(one.volume, one.knit_id))
                        except KnitError as error:
                            failed += 1
                            _failed("volume is not deleted", error, knit_id=one.knit_id)
                            continue
                        await self._store.collected([one.knit_id])
                        done += 1
        return _told("volumes_collected", Tidied(done=done, failed=failed))

    async def _grace(self, request: HousekeepingInput) -> timedelta:
        """Gives how long a discarded volume is kept: not for long while there is no room."""
        try:
            await self._backend.require_room()
        except StorageFull:
            return min(request.grace, SHORT_GRACE)
        return request.grace

    @activity.defn(name="knit.remove_leftover_pods")
    async def remove_leftover_pods(self, request: HousekeepingInput) -> Tidied:
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
                        _failed("run pod is not removed", error, run_id=key.run_id)
                        continue
                    done += 1
        return _told("pods_removed", Tidied(done=done, failed=failed))

    @activity.defn(name="knit.end_lost_transfers")
    async def end_lost_transfers(self, request: HousekeepingInput) -> Tidied:
        """Closes transfers that no workflow looks after any more."""
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
                        _failed("transfer is not closed", error, knit_id=one.knit_id)
                        continue
                    done += 1
        return _told("transfers_ended", Tidied(done=done, failed=failed))

    @activity.defn(name="knit.restart_lost_runs")
    async def restart_lost_runs(self, request: HousekeepingInput) -> Tidied:
        """Starts the workflows anew that were terminated, or are unknown to Temporal.

        The new execution goes on where the store says that the Run is.
        """
        done = 0
        with translated():
            async with heartbeating():
                client = activity.client()
                await start_projector(client, request.projector)
                attributes = await search_attributes_known(client)
                starter = RunStarter(
                    client, request.projector, self._settings, attributes=attributes
                )
                async for run in self._quiet(request.grace):
                    workflow_id = names.run_workflow(run.key.run_id, run.key.generation)
                    if await _is_running(client, workflow_id):
                        continue
                    await starter.start([run], again=True)
                    log.warning(
                        "run had lost its workflow",
                        extra={"action": "run_restarted", "run_id": run.key.run_id},
                    )
                    done += 1
        return _told("runs_restarted", Tidied(done=done))

    async def _quiet(self, grace: timedelta) -> AsyncIterator[StartableRun]:
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


def _failed(what: str, error: KnitError, **ids: str) -> None:
    log.warning(what, extra={"action": "tidying_failed", "reason": error.reason, **ids})


def _told(action: str, tidied: Tidied) -> Tidied:
    if tidied.done or tidied.failed:
        log.info(
            "tidied up",
            extra={"action": action, "things": tidied.done, "failed": tidied.failed},
        )
    return tidied
