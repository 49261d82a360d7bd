"""What a process that serves users asks of Temporal: transfers, and a look at volumes.

One `KnitClient` per process, never one per request. When Temporal does not answer, all methods
raise EngineUnavailable.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from temporalio import exceptions
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.contracts.hook_test import HookTestInput, HookTestResult
from knit_workflows.contracts.messages import Nothing
from knit_workflows.contracts.transfers import Closed, Finish, Opened, TransferInput
from knit_workflows.contracts.trials import TrialInput, TrialResult
from knit_workflows.contracts.volumes import (
    Question,
    VolumeAnswer,
    VolumeAnswers,
    VolumesInput,
)
from knit_workflows.domain import errors
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs.run import KNIT, USER
from knit_workflows.settings import QueueSettings, VersioningSettings
from knit_workflows.temporal.queue_state import EngineState, engine_state, queue_state
from knit_workflows.workflows import options
from knit_workflows.workflows.hook_test import HookTestWorkflow
from knit_workflows.workflows.transfer import TransferWorkflow
from knit_workflows.workflows.trial import TrialWorkflow
from knit_workflows.workflows.volumes import VolumesWorkflow

RPC_TIMEOUT: Final = timedelta(seconds=10)
PROMPT: Final = timedelta(seconds=2)
"""For a request that is only to make something prompt, and for a worker that is just starting."""
LOOKS: Final = 10
"""How often a worker is looked for meanwhile."""
ADVICE: Final = "Temporal does not answer at the moment; try again in some seconds"
MAKE_NAMESPACE: Final = "make it (python -m knit_workflows.bootstrap), or set TEMPORAL_NAMESPACE"
ANEW: Final = "start the transfer anew"
HOOK_CALL: Final = timedelta(seconds=40)
"""How long the test of a hook waits for its answer."""
HOOK_TEST: Final = timedelta(seconds=45)
"""The same with the time until a worker takes it up; less than clients wait for a response."""


@dataclass(frozen=True, slots=True)
class TransferHandle:
    """A transfer that is open; its endpoint is in the store, under `transfer_id`."""

    transfer_id: str
    knit_id: KnitId
    run_id: RunId | None


def upload_for_key(key: uuid.UUID) -> TransferHandle:
    """Gives the ids of the one upload that an idempotency key stands for, begun or not.

    Nothing else has such ids: those of Plans' Runs and of their Data are UUIDs of another version.
    """
    transfer_id, knit_id, run_id = (uuid.uuid5(key, part) for part in ("transfer", "data", "run"))
    return TransferHandle(transfer_id.hex, KnitId(str(knit_id)), RunId(str(run_id)))


class KnitClient:
    """knit's view of a Temporal client (connected with `KnitPlugin`)."""

    def __init__(
        self,
        client: Client,
        *,
        lease: timedelta = timedelta(seconds=60),
        opening: timedelta | None = None,
        grace: timedelta = PROMPT,
        heartbeat: timedelta = timedelta(seconds=20),
        step_timeout: timedelta = timedelta(seconds=10),
        queues: QueueSettings | None = None,
        versioning: VersioningSettings | None = None,
    ) -> None:
        """The times are those of `EngineSettings`; `opening` is `open_deadline` (None: `lease`).

        `grace`: how long the reason may take to get here that something was not open in time.
        """
        self._client = client
        self._lease = lease
        self._opening = opening or lease
        self._grace = grace
        self._heartbeat = heartbeat
        self._step_timeout = step_timeout
        self._queues = queues or QueueSettings()
        self._deployment = (versioning or VersioningSettings()).deployment_name

    async def ping(self) -> None:
        """Returns when Temporal answers; raises EngineUnavailable."""
        with _translated():
            if not await self._client.service_client.check_health(timeout=timedelta(seconds=2)):
                raise errors.EngineUnavailable(advice=ADVICE)

    async def state(self) -> EngineState:
        """Gives Temporal's version, and the workers of each role, or why it cannot be asked."""
        return await engine_state(self._client, self._queues, self._deployment)

    async def open_upload(
        self, key: uuid.UUID | None = None, *, actor: str = USER
    ) -> TransferHandle:
        """Makes a new, empty Data with its upload Run, and opens a transfer into it.

        With a key this succeeds once, for one caller.

        Raises:
            UploadInProgress: for other callers with the key, while the transfer is open.
            IdempotencyKeyConsumed: for them after that, whatever became of the Data.
        """
        upload = upload_for_key(key or uuid.uuid4())
        try:
            return await self._open("write", upload, actor)
        except errors.NotFound as error:
            if key is None:
                raise
            raise errors.IdempotencyKeyConsumed(see=upload.run_id or "") from error

    async def open_download(self, knit_id: KnitId) -> TransferHandle:
        """Opens a transfer that reads a Data; raises DataNotFound."""
        return await self._open("read", TransferHandle(uuid.uuid4().hex, knit_id, None))

    async def _open(
        self, mode: Literal["read", "write"], transfer: TransferHandle, actor: str = KNIT
    ) -> TransferHandle:
        start = self._started(mode, transfer, actor)
        # Longer than the opening itself, which ends with the reason.
        patience = self._opening + max(self._grace, self._opening / 10)
        try:
            with _translated():
                async with asyncio.timeout(patience.total_seconds()):
                    opened = await self._client.execute_update_with_start_workflow(
                        TransferWorkflow.open,
                        Nothing(),
                        # The outcome of an update is given to whoever asks with its id.
                        id=f"open:{uuid.uuid4()}",
                        start_workflow_operation=start,
                        rpc_timeout=patience,
                    )
        except asyncio.CancelledError:
            await self._abandon(transfer)
            raise
        except _TimedOut as error:
            await _retrieve(start)
            if _is_cancelled():
                # Temporal's client makes a time-out of that too.
                await self._abandon(transfer)
                raise asyncio.CancelledError from error
            raise await self._not_opened(transfer) from error
        except exceptions.WorkflowAlreadyStartedError as error:
            await _retrieve(start)
            raise await self._opened_before(transfer) from error
        _raise_unless(opened)
        return transfer

    def _started(
        self, mode: Literal["read", "write"], transfer: TransferHandle, actor: str
    ) -> WithStartWorkflowOperation[TransferWorkflow, Closed]:
        return WithStartWorkflowOperation(
            TransferWorkflow.run,
            TransferInput(
                transfer_id=transfer.transfer_id,
                mode=mode,
                knit_id=transfer.knit_id,
                run_id=transfer.run_id or "",
                actor=actor,
                lease=self._lease,
                opening=self._opening,
                heartbeat=self._heartbeat,
                compute_queue=self._queues.interactive,
            ),
            id=names.transfer_workflow(transfer.transfer_id),
            task_queue=self._queues.interactive,
            priority=options.AT_HAND,
            # Temporal knows which request started it: only that one, and its retries by the SDK,
            # get the transfer.
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            task_timeout=self._step_timeout,
        )

    async def _abandon(self, transfer: TransferHandle) -> None:
        """Ends a transfer that nobody waits for any longer; if this fails, its deadline does."""
        handle = self._client.get_workflow_handle(names.transfer_workflow(transfer.transfer_id))
        with suppress(errors.KnitError), _translated():
            await handle.cancel(rpc_timeout=PROMPT)

    async def _not_opened(self, transfer: TransferHandle) -> errors.Unavailable:
        """Gives the reason why a transfer was not opened in time, and cancels it."""
        handle = self._client.get_workflow_handle(names.transfer_workflow(transfer.transfer_id))
        seconds = f"{self._opening.total_seconds():g} s"
        with _translated():
            description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
            await handle.cancel(rpc_timeout=RPC_TIMEOUT)
            steps = description.raw_description.pending_activities
            if steps and (failure := steps[0].last_failure.message):
                return errors.BackendUnavailable(f"the transfer cannot be opened yet: {failure}")
            if steps and steps[0].state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
                return errors.TransferNotReady(
                    f"the way to the Data was not ready within {seconds}: where Data is kept, it "
                    "takes long",
                    advice="try again; the pods of transfers, if there are any, may say more",
                )
            queue = await queue_state(self._client, self._queues.interactive)
        if not queue.workers:
            return errors.EngineUnavailable(
                "no worker is up that opens transfers",
                advice="see that a worker with the role interactive runs, then try again",
            )
        others = f"; {queue.waiting:,} steps wait with it" if queue.waiting > 1 else ""
        return errors.Busy(
            f"the system is busy: the transfer was not opened within {seconds}{others}",
            advice="try again in some seconds; more workers with the role interactive would help",
        )

    async def _opened_before(self, upload: TransferHandle) -> errors.Conflict:
        handle = self._client.get_workflow_handle(names.transfer_workflow(upload.transfer_id))
        with _translated():
            description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
        if description.status is WorkflowExecutionStatus.RUNNING:
            return errors.UploadInProgress(see=upload.run_id or "")
        return errors.IdempotencyKeyConsumed(see=upload.run_id or "")

    async def renew(self, transfer: TransferHandle) -> None:
        """Renews the lease; to be called a few times per lease."""
        handle = self._client.get_workflow_handle_for(
            TransferWorkflow.run, names.transfer_workflow(transfer.transfer_id)
        )
        with _translated():
            await handle.signal(TransferWorkflow.renew, rpc_timeout=RPC_TIMEOUT)

    async def finish(self, transfer: TransferHandle, *, ok: bool, reason: str = "") -> Closed:
        """Ends the transfer and waits for its outcome; a second call gives the same one."""
        handle = self._client.get_workflow_handle_for(
            TransferWorkflow.run, names.transfer_workflow(transfer.transfer_id)
        )
        with _translated():
            return await handle.execute_update(
                TransferWorkflow.finish,
                Finish(ok=ok, reason=reason),
                id="finish",
                rpc_timeout=self._lease,
            )

    async def hook_skipped(self, run_id: RunId, generation: int) -> None:
        """Tells a Run of a skipped hook, so that it goes on at once; raises EngineUnavailable.

        A Run whose workflow is over needs no word.
        """
        handle = self._client.get_workflow_handle(names.run_workflow(run_id, generation))
        with suppress(errors.Conflict), _translated():
            await handle.signal("hook_skipped", rpc_timeout=PROMPT)

    async def test_hook(self, url: str, phase: HookPhase) -> HookTestResult:
        """Calls a hook with the body of a sample Run; gives what became of the call.

        Each call of this method is one call of the hook. Raises EngineUnavailable, also if no
        worker is there that calls hooks.
        """
        with _translated(starts=True):
            await self._require_hook_workers()
            test = await self._client.start_workflow(
                HookTestWorkflow.run,
                HookTestInput(url=url, phase=phase, timeout=HOOK_CALL),
                id=names.hook_test_workflow(uuid.uuid4().hex),
                task_queue=self._queues.hooks,
                priority=options.AT_HAND,
                execution_timeout=HOOK_TEST,
                task_timeout=self._step_timeout,
                rpc_timeout=RPC_TIMEOUT,
            )
            try:
                async with asyncio.timeout((HOOK_TEST + PROMPT).total_seconds()):
                    return await test.result()
            except WorkflowFailureError as cause:
                await self._require_hook_workers()
                raise errors.Unavailable(
                    _why_untested(cause),
                    advice="try again; the log of the workers with the role hooks says more",
                ) from cause

    async def _require_hook_workers(self) -> None:
        """Raises EngineUnavailable if no worker calls hooks, nor begins to while this waits."""
        for _ in range(LOOKS):
            if (await queue_state(self._client, self._queues.hooks)).workers:
                return
            await asyncio.sleep(PROMPT.total_seconds() / LOOKS)
        raise errors.EngineUnavailable(
            "no worker is up that calls hooks",
            advice="see that a worker with the role hooks runs, then try again",
        )

    async def look_at_volumes(
        self, question: Question, volumes: Sequence[str]
    ) -> list[VolumeAnswer]:
        """Asks the back-end about volumes; gives one answer for each, in this order.

        Raises:
            Unavailable: the back-end, or all workers that could ask it.
        """
        request = VolumesInput(
            question=question,
            names=list(volumes),
            compute_queue=self._queues.interactive,
            heartbeat=self._heartbeat,
        )
        workflow_id = names.volumes_workflow(uuid.uuid4().hex)
        with _asked(
            "no worker has looked at the volumes", "a worker with the role interactive runs"
        ):
            answers = await self._client.execute_workflow(
                VolumesWorkflow.run, request, id=workflow_id, **self._at_once()
            )
        _raise_unless_answered(answers)
        return answers.volumes

    async def try_plan(self, document: Mapping[str, Any]) -> TrialResult:
        """Asks the back-end what it would refuse of a Plan, which it does not start.

        Raises:
            Unavailable: the back-end, or all workers that could ask it.
        """
        request = TrialInput(
            document=dict(document),
            compute_queue=self._queues.compute,
            heartbeat=self._heartbeat,
        )
        workflow_id = names.trial_workflow(uuid.uuid4().hex)
        with _asked("no worker has tried the Plan", "workers run (roles interactive and compute)"):
            result = await self._client.execute_workflow(
                TrialWorkflow.run, request, id=workflow_id, **self._at_once()
            )
        _raise_unless_answered(result)
        return result

    def _at_once(self) -> dict[str, Any]:
        """Gives the options of a workflow that somebody waits for."""
        return {
            "task_queue": self._queues.interactive,
            "execution_timeout": self._lease,
            "task_timeout": self._step_timeout,
            "priority": options.AT_HAND,
        }


def _why_untested(error: BaseException) -> str:
    """Says why the test of a hook has no result, by the innermost of Temporal's errors."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    if isinstance(error, exceptions.TimeoutError):
        seconds = f"{HOOK_TEST.total_seconds():g} s"
        return f"the hook was not called, or has not answered, within {seconds}"
    return f"the hook cannot be tested: {error}"


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _retrieve(start: WithStartWorkflowOperation[Any, Any]) -> None:
    """Retrieves the result of a start whose update has failed; otherwise asyncio would log it."""
    await asyncio.gather(start.workflow_handle(), return_exceptions=True)


class _TimedOut(errors.EngineUnavailable):
    """A request that timed out; callers see its parent."""


@contextmanager
def _translated(*, starts: bool = False) -> Iterator[None]:
    """Translates what Temporal's client raises into domain errors, in this one place.

    What `starts` something cannot find it gone.
    """
    try:
        yield
    except RPCError as cause:
        if (namespace := _missing_namespace(cause)) is not None:
            raise errors.EngineUnavailable(
                f"Temporal has no namespace {namespace!r}", advice=MAKE_NAMESPACE
            ) from cause
        if cause.status is RPCStatusCode.NOT_FOUND and not starts:
            raise errors.Conflict("the transfer is over", advice=ANEW) from cause
        raise errors.EngineUnavailable(advice=ADVICE) from cause
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as cause:
        # Temporal has the request, or hangs: from here, the two look the same.
        raise _TimedOut(
            "knit's workers, or Temporal, have not answered in time",
            advice="see that both run, then try again",
        ) from cause
    except RuntimeError as cause:
        raise errors.EngineUnavailable(advice=ADVICE) from cause
    except WorkflowUpdateFailedError as cause:
        raise errors.Conflict(f"the transfer is over: {cause.cause}", advice=ANEW) from cause


def _missing_namespace(error: RPCError) -> str | None:
    """Gives the namespace that Temporal does not know; None: this is another error."""
    failure = NamespaceNotFoundFailure()
    for detail in error.grpc_status.details:
        if detail.Unpack(failure):
            return failure.namespace
    return None


@contextmanager
def _asked(failure: str, wanted: str) -> Iterator[None]:
    """Translates what the wait for a workflow raises; `wanted` is what it takes to succeed."""
    with _translated(starts=True):
        try:
            yield
        except WorkflowFailureError as error:
            raise errors.EngineUnavailable(
                f"{failure}: {error.cause}", advice=f"see that {wanted}, then try again"
            ) from error


def _raise_unless_answered(answers: VolumeAnswers | TrialResult) -> None:
    if answers.kind:
        kind = getattr(errors, answers.kind, errors.KnitError)
        raise kind(answers.reason, advice=answers.advice)


def _raise_unless(opened: Opened) -> None:
    if opened.ok:
        return
    kind = getattr(errors, opened.kind, errors.KnitError)
    raise kind(opened.reason, advice=opened.advice)
