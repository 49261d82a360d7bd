"""Reports why a Run has not started, or does not end: to the store, the log, Temporal's Web UI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from temporalio import activity
from temporalio.service import RPCError

from knit_workflows.compute.base import StartFailure
from knit_workflows.contracts.runs import Pending
from knit_workflows.domain.errors import (
    BackendUnavailable,
    KnitError,
    QuotaExceeded,
    StorageFull,
)
from knit_workflows.domain.ports import RunExecutionStore, RunKey
from knit_workflows.domain.runs.run import (
    DISRUPTED,
    OUTPUTS_READ,
    PendingReason,
    RunStatus,
    WaitKind,
)

log = logging.getLogger(__name__)

SIGNAL_TIMEOUT: Final = timedelta(seconds=2)
RETRIED: Final = (BackendUnavailable, StorageFull)
"""Errors of a back-end that mean: try again later."""
ENDING: Final = tuple(status for status in RunStatus if status.is_ending)
POD_NOT_GONE: Final = PendingReason(
    WaitKind.BACKEND, "PodNotGone", "its pod has been told to end but has not gone yet"
)
UNDER_WAY: Final = tuple(status for status in RunStatus if status.is_under_way)


class PendingReporter:
    """Reports the reasons that one activity meets for one Run, each only once in a row.

    `nothing_recorded` says that the store has no reason on record, so that a Run that starts
    normally costs no statement.
    """

    def __init__(self, store: RunExecutionStore, key: RunKey, *, nothing_recorded: bool) -> None:
        self._store = store
        self._key = key
        self._reported: tuple[WaitKind, str] | None = None
        self._is_known = nothing_recorded

    async def start_failure(self, failure: StartFailure | None, until: datetime | None) -> None:
        """Reports what keeps the pod of a starting Run pending; None: nothing any longer.

        Raises:
            StoreUnavailable: the database does not answer.
            RunNotFound: the Run has been deleted.
            Superseded: the Run has been retried.
        """
        reason = None
        if failure is not None:
            kind = WaitKind(failure.kind.value)
            reason = PendingReason(kind, failure.reason, failure.message, until)
        await self._report(reason, RunStatus.STARTING)

    async def pod_not_gone(self) -> None:
        """Reports that the pod of a stopped Run has not ended yet."""
        await self._try_report(POD_NOT_GONE, *ENDING)

    async def being_taken_away(self, why: str) -> None:
        """Reports that the pod is going, which takes as long as its node does not confirm it."""
        message = f"its pod is being taken away ({why}), and its node has not confirmed its end yet"
        reason = PendingReason(WaitKind.PROGRESS, DISRUPTED, message)
        await self._try_report(reason, *UNDER_WAY)

    async def disrupted(self, why: str, *, outputs_read: bool) -> None:
        """Reports that the Run is launched again as soon as nothing of its pod is in use."""
        until = "nobody reads its log or outputs" if outputs_read else "that pod is gone"
        code = OUTPUTS_READ if outputs_read else DISRUPTED
        message = f"its pod was disrupted ({why}): it is launched again when {until}"
        reason = PendingReason(WaitKind.PROGRESS, code, message)
        await self._try_report(reason, *UNDER_WAY)

    @asynccontextmanager
    async def failures(self, *statuses: RunStatus) -> AsyncIterator[None]:
        """Reports an error for which the activity will be retried, then lets it pass.

        Without this only Temporal would know of it. `statuses` are those the Run may have while
        the error lasts.
        """
        try:
            yield
        except KnitError as error:
            if isinstance(error, RETRIED):
                await self._try_report(_reason_of(error), *statuses)
            raise
        except Exception as error:
            # A bug, or a machine in trouble: Temporal retries it too, so users should see it.
            await self._try_report(_reason_of(error), *statuses)
            raise

    async def _try_report(self, reason: PendingReason, *statuses: RunStatus) -> None:
        """Reports, or logs that it cannot: the activity's own work matters more."""
        try:
            await self._report(reason, *statuses)
        except KnitError as error:
            log.warning(
                "cannot record why the Run is pending: %s",
                error,
                extra={"action": "pending_reason_lost", "run_id": self._key.run_id},
            )

    async def _report(self, reason: PendingReason | None, *statuses: RunStatus) -> None:
        reported = None if reason is None else (reason.kind, reason.code)
        if self._is_known and reported == self._reported:
            return
        for status in statuses:
            if await self._store.hold_up(self._key, reason, at=status):
                await self._announce(reason, status)
        self._reported, self._is_known = reported, True

    async def _announce(self, reason: PendingReason | None, status: RunStatus) -> None:
        """Writes a log line, and shows the reason in the Web UI."""
        extra = {"action": "run_pending", "run_id": self._key.run_id, "status": str(status)}
        if reason is None:
            log.info("run is no longer pending", extra=extra)
        else:
            extra |= {"kind": str(reason.kind), "code": reason.code}
            log.info("run is pending: %s", reason.message, extra=extra)
        await signal_workflow("pending", Pending(status=status, reason=_message(reason)))


async def signal_workflow(signal: str, *arguments: object) -> None:
    """Signals the workflow of this activity, so that Temporal's Web UI shows what happens.

    Failures are only logged: the store has recorded the same already.
    """
    info = activity.info()
    if info.workflow_id is None:
        return
    workflow = activity.client().get_workflow_handle(info.workflow_id)
    try:
        await workflow.signal(signal, args=arguments, rpc_timeout=SIGNAL_TIMEOUT)
    except RPCError as error:
        log.info(
            "workflow was not signalled",
            extra={"action": "signal_lost", "signal": signal, "reason": str(error.status)},
        )


def _reason_of(error: Exception) -> PendingReason:
    code = type(error).__name__
    if not isinstance(error, KnitError):
        return PendingReason(WaitKind.BACKEND, code, f"unexpected error: {error}")
    message = f"{error.reason}; {error.advice}" if error.advice else error.reason
    kind = WaitKind.UNSCHEDULABLE if isinstance(error, QuotaExceeded) else WaitKind.BACKEND
    return PendingReason(kind, code, message)


def _message(reason: PendingReason | None) -> str:
    if reason is None:
        return ""
    message = f"[{reason.code}] {reason.message}"
    return f"{message}; given up at {reason.until:%H:%M:%S} UTC" if reason.until else message
