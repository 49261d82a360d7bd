"""Says what keeps a Run from starting, or from ending: in the store, and in Temporal's Web UI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from temporalio import activity
from temporalio.service import RPCError

from knit_workflows.compute.base import StartFailure
from knit_workflows.contracts.runs import HeldUp
from knit_workflows.domain.errors import BackendUnavailable, KnitError, StorageFull
from knit_workflows.domain.ports import RunExecutionStore, RunKey
from knit_workflows.domain.runs import Holdup, RunStatus, WaitKind

log = logging.getLogger(__name__)

TELL_WITHIN: Final = timedelta(seconds=2)
"""How long telling a workflow may take."""
PASSING: Final = (BackendUnavailable, StorageFull)
"""What a back-end says when it is to be asked again."""
STOPPING: Final = tuple(status for status in RunStatus if status.is_ending)
NOT_GONE: Final = Holdup(
    WaitKind.BACKEND,
    "PodNotGone",
    "its pod has been told to end, and something of it is still there",
)


class Holdups:
    """What one activity has to say of one Run, each reason once.

    `nothing_said` says that the store knows of nothing that holds the Run up, so that a Run that
    goes its usual course costs no statement.
    """

    def __init__(self, store: RunExecutionStore, key: RunKey, *, nothing_said: bool) -> None:
        self._store = store
        self._key = key
        self._said: tuple[WaitKind, str] | None = None
        self._is_known = nothing_said

    async def trouble(self, trouble: StartFailure | None, until: datetime | None) -> None:
        """Tells what keeps the pod of a starting Run pending; None: nothing does any more.

        Raises StoreUnavailable, RunNotFound, Superseded.
        """
        holdup = None
        if trouble is not None:
            kind = WaitKind(trouble.kind.value)
            holdup = Holdup(kind, trouble.reason, trouble.message, until)
        await self._tell(holdup, RunStatus.STARTING)

    async def not_gone(self) -> None:
        """Tells that the pod of a stopped Run does not end."""
        await self._tell_anyhow(NOT_GONE, *STOPPING)

    @asynccontextmanager
    async def failures(self, *statuses: RunStatus) -> AsyncIterator[None]:
        """Tells of an error that the activity is retried for, which nobody would hear of else.

        `statuses`: those, one of which the Run has as long as it fails.
        """
        try:
            yield
        except KnitError as error:
            if isinstance(error, PASSING):
                await self._tell_anyhow(_holdup_of(error), *statuses)
            raise
        except Exception as error:
            # A bug, or a machine in trouble: retried all the same, so it is told all the same.
            await self._tell_anyhow(_holdup_of(error), *statuses)
            raise

    async def _tell_anyhow(self, holdup: Holdup, *statuses: RunStatus) -> None:
        """Tells, or goes on without: what is to be done matters more."""
        try:
            await self._tell(holdup, *statuses)
        except KnitError as again:
            log.warning(
                "cannot record why the Run is held up: %s",
                again,
                extra={"action": "holdup_lost", "run_id": self._key.run_id},
            )

    async def _tell(self, holdup: Holdup | None, *statuses: RunStatus) -> None:
        said = None if holdup is None else (holdup.kind, holdup.code)
        if self._is_known and said == self._said:
            return
        for status in statuses:
            if await self._store.hold_up(self._key, holdup, at=status):
                await self._tell_others(holdup, status)
        self._said, self._is_known = said, True

    async def _tell_others(self, holdup: Holdup | None, status: RunStatus) -> None:
        """Tells the log and the Web UI."""
        extra = {"action": "run_held_up", "run_id": self._key.run_id, "status": str(status)}
        if holdup is None:
            log.info("run is no longer held up", extra=extra)
        else:
            extra |= {"kind": str(holdup.kind), "code": holdup.code}
            log.info("run is held up: %s", holdup.message, extra=extra)
        await tell_workflow("held_up", HeldUp(status=status, reason=_words(holdup)))


async def tell_workflow(signal: str, *arguments: object) -> None:
    """Signals the workflow of this activity, for Temporal's Web UI.

    It is a comfort: the store has it already, so what goes wrong is only logged.
    """
    info = activity.info()
    if info.workflow_id is None:
        return
    workflow = activity.client().get_workflow_handle(info.workflow_id)
    try:
        await workflow.signal(signal, args=arguments, rpc_timeout=TELL_WITHIN)
    except RPCError as error:
        log.info(
            "workflow was not told",
            extra={"action": "signal_lost", "signal": signal, "reason": str(error.status)},
        )


def _holdup_of(error: Exception) -> Holdup:
    """Puts an error into words."""
    code = type(error).__name__
    if not isinstance(error, KnitError):
        return Holdup(WaitKind.BACKEND, code, f"unexpected error: {error}")
    words = f"{error.reason}; {error.advice}" if error.advice else error.reason
    return Holdup(WaitKind.BACKEND, code, words)


def _words(holdup: Holdup | None) -> str:
    if holdup is None:
        return ""
    words = f"[{holdup.code}] {holdup.message}"
    return f"{words}; given up at {holdup.until:%H:%M:%S} UTC" if holdup.until else words
