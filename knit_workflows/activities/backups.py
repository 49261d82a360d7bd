"""Takes backups in a process of their own, so that a worker neither slows down nor grows."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.contracts.backups import BackupActivities, BackupTaken, TakeBackup
from knit_workflows.temporal.backup_schedule import remember

log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "knit_workflows.backup.scheduled.take")
_MAX_LINE: Final = 1 << 20
_GIVING_BACK: Final = 8.0
"""Seconds in which a process gives pods and lock back; workers that end wait a little longer."""


class ProcessBackupActivities(BackupActivities):
    """The activity of `knit.Backup`: a process that ends with this one, and prints one line."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command

    @activity.defn(name="knit.take_backup")
    async def take_backup(self, request: TakeBackup) -> BackupTaken:
        """Takes a set.

        Raises:
            ApplicationError: there is none; the reason is the process's.
        """
        async with heartbeating():
            printed = await self._carried_out(request)
        if "problem" in printed:
            raise ApplicationError(printed["problem"], type="BackupProblem")
        taken = BackupTaken.model_validate(printed)
        try:
            await remember(
                activity.client(),
                request.destination,
                taken.set_id,
                unreadable=taken.unreadable,
                unpruned=taken.unpruned,
            )
        except (RPCError, RuntimeError) as error:  # the set is there all the same
            log.warning("the schedule of backups does not hear of one: %s", error)
        if taken.unpruned:
            log.warning("older sets cannot be removed: %s", taken.unpruned)
        log.info(
            "backup taken",
            extra={
                "action": "backup_taken",
                "set": taken.set_id,
                "volumes": taken.volumes,
                "unreadable": taken.unreadable,
            },
        )
        return taken

    async def _carried_out(self, request: TakeBackup) -> dict[str, Any]:
        keep = [] if request.keep is None else [f"--keep={request.keep}"]
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *keep,
            "--",
            request.destination,
            stdin=asyncio.subprocess.PIPE,  # whose end tells it that we are gone
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            env=os.environ,
        )
        assert process.stdout is not None
        try:
            line = await process.stdout.readline()
            code = await process.wait()
        finally:
            if process.returncode is None:
                await _ended(process)
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            return {"problem": f"the process that takes backups ended with code {code}"}
        return found


async def _ended(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _GIVING_BACK)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
