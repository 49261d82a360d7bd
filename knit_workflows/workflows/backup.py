"""`knit.Backup`: takes one set; its schedule starts it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RetryPolicy

from knit_workflows import names
from knit_workflows.contracts.backups import BackupActivities, BackupTaken, TakeBackup

_LONGEST: Final = timedelta(days=7)
"""The first one of many terabytes; heartbeats show whether its worker is alive."""
_A_FEW_TIMES: Final = RetryPolicy(
    initial_interval=timedelta(seconds=15),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(minutes=10),
    maximum_attempts=7,
)
"""For a quarter of an hour or so; after that it has failed, and its schedule tries again."""


@workflow.defn(name=names.BACKUP_WORKFLOW, sandboxed=False)
class BackupWorkflow:
    """One backup. What a killed attempt has stored is not read again by the next one."""

    @workflow.run
    async def run(self, request: TakeBackup) -> BackupTaken:
        """Takes it, on the queue of this workflow: its workers have the rights."""
        return await workflow.execute_activity_method(
            BackupActivities.take_backup,
            request,
            task_queue=workflow.info().task_queue,
            start_to_close_timeout=_LONGEST,
            heartbeat_timeout=request.heartbeat,
            retry_policy=_A_FEW_TIMES,
            summary=f"into {request.destination}",
        )
