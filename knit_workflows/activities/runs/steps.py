"""The steps of a Run: they act on the compute back-end and look at it; none records a status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.activities.runs.deadlines import StartDeadlines
from knit_workflows.activities.runs.observations import WatchedPod, observations
from knit_workflows.activities.runs.pending_reasons import PendingReporter
from knit_workflows.compute.base import (
    ENDED,
    ComputeBackend,
    Observation,
    Phase,
    RunPod,
    StartFailure,
)
from knit_workflows.contracts.runs import Evidence
from knit_workflows.domain.errors import BackendRejected, QuotaExceeded
from knit_workflows.domain.imports import NOT_ENDED
from knit_workflows.domain.plans.model import LOG_PATH
from knit_workflows.domain.plans.options import PlanOptions
from knit_workflows.domain.ports import RunKey, RunSpec
from knit_workflows.domain.runs.milestones import Timeline
from knit_workflows.domain.runs.run import LOST, OOM_KILLED, STUCK_CODE, Exit, RunStatus
from knit_workflows.domain.volumes import AS_INSTALLED, Mount
from knit_workflows.settings import EngineSettings

BRIEFLY: Final = timedelta(seconds=0.5)
"""How long a pod is looked at that has been told to end before: one that goes now is seen."""


class RunSteps:
    """What is done for a Run between two of its transitions; every step may be repeated."""

    def __init__(self, backend: ComputeBackend, settings: EngineSettings) -> None:
        self._backend = backend
        self._settings = settings

    async def create_volumes(self, spec: RunSpec) -> PlanOptions:
        """Creates the volumes of its outputs and its log: all, or none if a quota is used up.

        Half of them would keep others from theirs, and several Runs could wait for each other. One
        goes first: for those who wait for a quota, it is all that they ask for. Gives how each was
        asked for, by path.
        """
        log = [Mount(LOG_PATH, spec.log)] if spec.log else []
        volumes = {mount.path: mount.volume for mount in (*spec.outputs, *log)}
        asked = {path: await self._backend.create_volume(volumes[path]) for path in [*volumes][:1]}
        others = [*volumes][1:]
        made = await asyncio.gather(
            *(self._backend.create_volume(volumes[path]) for path in others),
            return_exceptions=True,
        )
        failures = [failure for failure in made if isinstance(failure, BaseException)]
        if any(isinstance(failure, QuotaExceeded) for failure in failures):
            await asyncio.gather(*map(self._backend.delete_volume, volumes.values()))
        if failures:
            raise failures[0]
        asked |= {
            path: one
            for path, one in zip(others, made, strict=True)
            if not isinstance(one, BaseException)
        }
        return PlanOptions(
            volumes={path: one for path, one in asked.items() if one != AS_INSTALLED}
        )

    async def create_pod(self, spec: RunSpec) -> tuple[tuple[str, ...], PlanOptions]:
        """Starts the run pod; gives what the back-end warns of, as notes, and the pod's options."""
        launched = await self._backend.launch(run_pod(spec))
        notes = tuple(f"warning of the back-end: {text}" for text in launched.warnings)
        return notes, PlanOptions(launched.options)

    async def evidence(
        self, key: RunKey, reporter: PendingReporter, duration: timedelta | None = None
    ) -> AsyncGenerator[Evidence, None]:
        """Yields what moves the Run on, as it happens; ends with the pod, or after `duration`.

        First, if it is seen, that the container has started; then how it has ended, or why it is
        given up. Why it is still pending goes to the reporter.
        """
        name = names.run_pod(key.run_id, key.generation)
        deadlines = StartDeadlines(
            image_pull=self._settings.image_pull_deadline,
            start=self._settings.start_deadline,
            refused=self._settings.refused_deadline,
        )
        seen_running = False
        async with aclosing(observations(self._backend, name, deadlines, duration)) as changes:
            async for pod in changes:
                observation = pod.observation
                if observation.phase is Phase.PENDING and pod.expired is None:
                    await reporter.start_failure(observation.start_failure, pod.deadline)
                if observation.phase is Phase.RUNNING and not seen_running:
                    seen_running = True
                    yield started(observation.image_digest, observation.timeline)
                if observation.phase is Phase.RUNNING and observation.disruption:
                    await reporter.being_taken_away(observation.disruption)
                if (last := self._last_evidence(name, pod)) is not None:
                    yield last
                    return

    def _last_evidence(self, name: str, pod: WatchedPod) -> Evidence | None:
        """Gives what ends the watch of a pod; None: nothing yet."""
        if pod.expired is not None:
            return _given_up("run pod stuck", _stuck(name, pod.expired), pod.observation.timeline)
        observation = pod.observation
        if observation.phase is Phase.ABSENT:
            evidence = _given_up("run pod lost", LOST)
        elif observation.phase in ENDED:
            evidence = _ended(observation, oom_kill_fails=self._settings.oom_kill_fails)
        else:
            return None
        if observation.disruption:
            evidence = evidence.model_copy(update={"disruption": observation.disruption})
        return evidence

    async def kept(self, spec: RunSpec, evidence: Evidence) -> Evidence:
        """Gives the evidence of a success, or what has become of it.

        A Run whose output somebody has deleted meanwhile has failed; a log that is gone is noted.
        """
        log = [spec.log] if spec.log else []
        volumes = [*(mount.volume for mount in spec.outputs), *log]
        missing = {one.name for one in await self._backend.missing_volumes(volumes)}
        lost = [mount for mount in spec.outputs if mount.volume.name in missing]
        if lost:
            return _without_outputs(evidence, lost)
        if missing:
            note = f"the log is gone: {_deleted_meanwhile(missing)}"
            more = {"notes": (*evidence.notes, note), "cause": f"{evidence.cause}; {note}"}
            return evidence.model_copy(update=more)
        return evidence

    async def stop(self, key: RunKey, *, briefly: bool = False) -> bool:
        """Stops the run pod and waits for a while; gives whether it has gone.

        `briefly` is for a pod that has had the time already that it may take to end.
        """
        name = names.run_pod(key.run_id, key.generation)
        await self._backend.stop(name, grace=self._settings.stop_grace)
        patience = self._settings.stop_retry_interval + self._settings.stop_grace
        timeout = BRIEFLY if briefly else patience
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                async for observation in self._backend.watch(name):
                    if observation.phase is Phase.ABSENT:
                        return True
        except TimeoutError:
            return False
        return False

    async def release_pod(self, key: RunKey) -> None:
        """Lets the back-end forget the run pod."""
        await self._backend.release(names.run_pod(key.run_id, key.generation))


def run_pod(spec: RunSpec) -> RunPod:
    """Describes the pod that carries out a Run; pure."""
    return RunPod(
        name=names.run_pod(spec.key.run_id, spec.key.generation),
        run_id=spec.key.run_id,
        generation=spec.key.generation,
        plan_id=spec.plan_id,
        image=str(spec.image) if spec.image else "",
        inputs=spec.inputs,
        outputs=spec.outputs,
        log=spec.log,
        entrypoint=spec.entrypoint,
        args=spec.args,
        resources=spec.resources,
        on_node=spec.on_node,
        service_account=spec.service_account,
        options=spec.options,
        env=spec.environment,
    )


def not_ended() -> Evidence:
    """Tells that an import was not ended in time; it is the one Run that has no pod."""
    return _given_up(NOT_ENDED.message, NOT_ENDED)


def is_lost(evidence: Evidence) -> bool:
    """Says whether the Run is given up because there is no pod."""
    return not evidence.pod_ended and exit_of(evidence) == LOST


def refused(error: BackendRejected) -> Evidence:
    """Tells that the back-end will never carry out the Run."""
    return _given_up("refused by the compute back-end", Exit(STUCK_CODE, error.reason))


def exit_of(evidence: Evidence) -> Exit | None:
    """Gives the exit that the evidence tells of, if any."""
    if evidence.exit_code is None:
        return None
    return Exit(evidence.exit_code, evidence.exit_message)


def started(image_digest: str | None, timeline: Timeline) -> Evidence:
    """Tells that the user's container has started."""
    return Evidence(
        target=RunStatus.RUNNING,
        cause="container started",
        image_digest=image_digest,
        timeline=dict(timeline),
    )


def _ended(observation: Observation, *, oom_kill_fails: bool) -> Evidence:
    exit = observation.exit
    assert exit is not None
    succeeded = observation.phase is Phase.SUCCEEDED
    if succeeded and observation.oom_killed and oom_kill_fails:
        succeeded, exit = False, OOM_KILLED
    return Evidence(
        target=RunStatus.COMPLETING if succeeded else RunStatus.ABORTING,
        # In the history too, which stays when the Run is retried.
        cause="; ".join(("run pod ended", *observation.notes)),
        pod_ended=not observation.lingering,
        exit_code=exit.code,
        exit_message=exit.message,
        image_digest=observation.image_digest,
        notes=observation.notes,
        timeline=dict(observation.timeline),
    )


def _given_up(cause: str, exit: Exit, timeline: Timeline | None = None) -> Evidence:
    return Evidence(
        target=RunStatus.ABORTING,
        cause=cause,
        exit_code=exit.code,
        exit_message=exit.message,
        timeline=dict(timeline or {}),
    )


def _without_outputs(evidence: Evidence, lost: Sequence[Mount]) -> Evidence:
    deleted = _deleted_meanwhile(mount.volume.name for mount in lost)
    exit = Exit(LOST.code, f"no {', '.join(mount.path for mount in lost)}: {deleted}")
    failure = {
        "target": RunStatus.ABORTING,
        "cause": f"{evidence.cause}; {deleted}",
        "exit_code": exit.code,
        "exit_message": exit.message,
    }
    return evidence.model_copy(update=failure)


def _deleted_meanwhile(volumes: Iterable[str]) -> str:
    return f"somebody has deleted the volume {', '.join(volumes)} before the Run ended"


def _stuck(name: str, failure: StartFailure) -> Exit:
    return Exit(STUCK_CODE, f"(pod {name}) [{failure.reason}] {failure.message}")
