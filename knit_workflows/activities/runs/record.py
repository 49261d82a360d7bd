"""What becomes of Runs is recorded in the store, counted and logged: here, for all activities."""

from __future__ import annotations

import logging

from knit_workflows.activities.runs.steps import RunSteps, exit_of
from knit_workflows.contracts.runs import Evidence, HookCounts, Progress
from knit_workflows.domain.ports import HookStore, RunExecutionStore, RunKey, Started
from knit_workflows.domain.runs.run import Exit, RunStatus
from knit_workflows.domain.runs.timing import Timing
from knit_workflows.metrics.instruments import PHASE_DURATION, RUNS_ENDED

log = logging.getLogger(__name__)


class RunRecord:
    """The record of Runs in a store. All methods may be repeated."""

    def __init__(self, store: RunExecutionStore, hooks: HookStore, steps: RunSteps) -> None:
        self._store = store
        self._hooks = hooks
        self._steps = steps

    async def move(
        self, key: RunKey, evidence: Evidence, hooks_called: bool, asked: str | None = None
    ) -> Progress:
        """Moves a Run as its evidence says; gives how far it is then."""
        exit = exit_of(evidence)
        status = await self._store.advance(
            key,
            evidence.target,
            cause=evidence.cause,
            exit=exit,
            image_digest=evidence.image_digest,
            notes=evidence.notes,
            timeline=evidence.timeline,
            hooks_called=hooks_called,
            asked=asked,
        )
        log_status(key, status, exit)
        if status.is_final:  # by an attempt that has died before it could say so
            return Progress(status=status, pod_ended=evidence.pod_ended)
        return _progress(evidence, status)

    async def finalize(self, key: RunKey, *, hooks_called: bool, asked: str | None) -> Progress:
        """Ends the Run: lineage first, so that an unreachable back-end delays only the clean-up."""
        status = await self._store.finalize(
            key, cause="run pod ended", hooks_called=hooks_called, asked=asked
        )
        log_status(key, status)
        await self._steps.release_pod(key)
        spent = await self._store.timing(key)
        return Progress(status=status, timing=_measured(status, spent))

    async def conclude(
        self, key: RunKey, evidence: Evidence, started: Evidence | None = None
    ) -> Progress:
        """Ends a Run whose pod is over: what `move` and then `finalize` do, but at once.

        And what `move` does of its start, if that was seen only a moment before.
        """
        exit = exit_of(evidence)
        running = None
        if started is not None:
            running = Started(started.cause, started.image_digest, started.timeline)
        ended = await self._store.conclude(
            key,
            evidence.target,
            cause=evidence.cause,
            exit=exit,
            image_digest=evidence.image_digest,
            notes=evidence.notes,
            timeline=evidence.timeline,
            running=running,
        )
        if running is not None:
            log_status(key, RunStatus.RUNNING)
        log_status(key, ended.status, exit)
        await self._steps.release_pod(key)
        timing = _measured(ended.status, ended.timing)
        meant = RunStatus.DONE if evidence.target is RunStatus.COMPLETING else RunStatus.FAILED
        if ended.status is not meant:  # it had ended before: by an earlier attempt, or by its user
            return Progress(status=ended.status, pod_ended=True, timing=timing)
        return _progress(evidence, ended.status).model_copy(update={"timing": timing})

    async def with_hooks(self, key: RunKey) -> Progress:
        """Gives how far a Run is whose next transition has to wait for hooks."""
        spec = await self._store.spec(key)
        return Progress(status=spec.status, hooks=await self.hook_counts())

    async def hook_counts(self) -> HookCounts:
        """Gives how many hooks are in force."""
        return HookCounts.of(await self._hooks.hooks())


def _progress(evidence: Evidence, status: RunStatus) -> Progress:
    """Gives how far a Run is that this evidence has moved."""
    return Progress(
        status=status,
        pod_ended=evidence.pod_ended,
        exit_code=evidence.exit_code,
        exit_message=evidence.exit_message,
        notes=evidence.notes,
    )


def _measured(status: RunStatus, spent: Timing) -> tuple[str, ...]:
    """Counts a Run that has ended; gives its phases as sentences."""
    RUNS_ENDED.labels(status).inc()
    for one in spent.phases:
        PHASE_DURATION.labels(one.phase).observe(one.duration.total_seconds())
    return tuple(map(str, spent.phases))


def log_status(key: RunKey, status: RunStatus, exit: Exit | None = None) -> None:
    """Logs that a Run has a status, and how it has ended."""
    extra: dict[str, object] = {
        "action": "run_status",
        "run_id": key.run_id,
        "generation": key.generation,
        "status": str(status),
    }
    if exit is not None:
        extra |= {"exit_code": exit.code, "exit_message": exit.message}
    log.info("run is %s", status, extra=extra)
