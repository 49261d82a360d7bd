"""`knit.Transfer`: keeps the access to a Data open while a client pushes or pulls.

```
open ──► (client streams, renews its lease) ──► finish(ok) ──► closed
  │                                                │
  └─ could not be opened                           └─ or the lease expired: closed as broken
```

A transfer of days goes on in another execution before its history is too long.

Transfers that read the same Data share an endpoint, and the last of them keeps it for a while:
after its client has its answer, the workflow looks again and again whether the endpoint has been
used since.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from knit_workflows import names
from knit_workflows.contracts import shown
from knit_workflows.contracts.messages import Nothing
from knit_workflows.contracts.transfers import (
    Closed,
    CloseTransfer,
    Finish,
    Opened,
    OpenTransfer,
    TransferActivities,
    TransferInput,
)
from knit_workflows.workflows import options

_LATE: Final = 4
"""A lease that is noticed to be over by a fourth of itself too late was not the client's fault."""
_MOST_LOOKS: Final = 200
"""How often a workflow looks after the endpoint it keeps; so its history stays short."""


@workflow.defn(name=names.TRANSFER_WORKFLOW, sandboxed=False)
class TransferWorkflow:
    """One transfer; its two activities use the store and the back-end."""

    def __init__(self) -> None:
        self._opened: Opened | None = None
        self._finish: Finish | None = None
        self._closed: Closed | None = None
        self._renewals = 0

    @workflow.run
    async def run(self, request: TransferInput) -> Closed:
        """Opens, waits until the client finishes or its lease expires, closes."""
        try:
            self._opened = request.opened or await self._open(request)
            if self._opened.ok:
                await self._until_finished(request)
                finish = self._finish or Finish(ok=False, reason="the client went silent")
            else:
                finish = Finish(ok=False, reason=self._opened.reason)
        except (Exception, asyncio.CancelledError) as error:
            if not is_cancelled_exception(error):
                raise
            if self._opened is None and workflow.patched("a-cancelled-opening-is-answered"):
                self._opened = Opened(ok=False, kind="Conflict", reason="cancelled in Temporal")
            await self._close(request, Finish(ok=False, reason="cancelled in Temporal"))
            raise
        self._closed = await self._close(request, finish)
        await self._keep(request, self._closed)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._closed

    @workflow.update
    async def open(self, _: Nothing) -> Opened:
        """Waits until the transfer is open, or could not be opened."""
        await workflow.wait_condition(lambda: self._opened is not None)
        assert self._opened is not None
        return self._opened

    @workflow.update
    async def finish(self, request: Finish) -> Closed:
        """Ends the transfer; the first call counts, and every call waits for the outcome."""
        self._finish = self._finish or request
        await workflow.wait_condition(lambda: self._closed is not None)
        assert self._closed is not None
        return self._closed

    @workflow.signal
    def renew(self) -> None:
        """Renews the lease: the client is still there."""
        self._renewals += 1

    async def _until_finished(self, request: TransferInput) -> None:
        seen = -1
        while self._finish is None and seen != self._renewals:
            self._go_on_elsewhere(request)
            seen = self._renewals
            due = workflow.now() + request.lease
            try:
                await workflow.wait_condition(
                    lambda: self._finish is not None, timeout=request.lease
                )
            except TimeoutError:
                if _was_away(due, request.lease):
                    seen = -1  # one more lease, in which the client can be heard

    def _go_on_elsewhere(self, request: TransferInput) -> None:
        """Continues as new if the history is long, which each renewal makes longer."""
        if not workflow.info().is_continue_as_new_suggested() or self._opened is None:
            return
        if workflow.all_handlers_finished() and workflow.patched("a-long-transfer-goes-on"):
            workflow.continue_as_new(request.model_copy(update={"opened": self._opened}))

    async def _keep(self, request: TransferInput, closed: Closed) -> None:
        """Keeps the endpoint for the next reader, for as long as it was used a short while ago."""
        looks = 0
        while closed.stays:
            try:
                await workflow.sleep(closed.stays, summary="kept for the next reader")
            except asyncio.CancelledError:
                await self._close(request, Finish(ok=False, reason="cancelled in Temporal"))
                raise
            looks += 1
            kept = Finish(ok=looks < _MOST_LOOKS, reason="kept long enough")
            closed = await self._close(request, kept)

    async def _open(self, request: TransferInput) -> Opened:
        try:
            return await self._try_to_open(request)
        except ActivityError as error:
            if is_cancelled_exception(error) or not workflow.patched("an-opening-ends"):
                raise
            reason = f"the transfer was not opened: {error.cause or error}"
            return Opened(ok=False, kind="EngineUnavailable", reason=reason)

    async def _try_to_open(self, request: TransferInput) -> Opened:
        return await workflow.execute_activity_method(
            TransferActivities.open_transfer,
            OpenTransfer(
                transfer_id=request.transfer_id,
                mode=request.mode,
                knit_id=request.knit_id,
                run_id=request.run_id,
                actor=request.actor,
                within=request.opening,
            ),
            task_queue=request.compute_queue,
            # The activity ends in time by itself, with the reason; these are for one that cannot.
            start_to_close_timeout=request.opening + options.SHORT,
            schedule_to_close_timeout=request.opening + options.SHORT * 5,
            heartbeat_timeout=request.heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"open {request.mode} {request.knit_id}",
        )

    async def _close(self, request: TransferInput, finish: Finish) -> Closed:
        return await workflow.execute_activity_method(
            TransferActivities.close_transfer,
            CloseTransfer(
                transfer_id=request.transfer_id,
                mode=request.mode,
                knit_id=request.knit_id,
                run_id=request.run_id,
                endpoint_id="" if self._opened is None else self._opened.endpoint_id,
                ok=finish.ok,
                reason=finish.reason,
                may_stay=True,
            ),
            task_queue=request.compute_queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=request.heartbeat,
            retry_policy=options.UNTIL_IT_WORKS,
            summary=shown.summary("keep the Data" if finish.ok else f"discard: {finish.reason}"),
        )


def _was_away(due: datetime, lease: timedelta) -> bool:
    """Says whether Temporal or all workers were away when a lease was over.

    Nobody could renew it meanwhile, or the renewals wait behind the timer.
    """
    is_late = workflow.now() - due > lease / _LATE
    return is_late and workflow.patched("an-outage-ends-no-transfer")
