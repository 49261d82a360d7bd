"""Turns a pod, its Job and their events into the contract's observation; pure.

The user's container decides whether the pod has started; how the pod ended is for `endings` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from knit_workflows.compute.base import Observation, Phase
from knit_workflows.compute.image_that_ran import image_that_ran
from knit_workflows.compute.kubernetes.api.objects import JsonObject, being_deleted, condition_is
from knit_workflows.compute.kubernetes.pods.endings import (
    being_taken_away,
    could_not_start,
    ending,
    has_final_phase,
    status_of,
)
from knit_workflows.compute.kubernetes.pods.start_failures import (
    WarningEvent,
    start_failure_of_job,
    start_failure_of_pod,
)
from knit_workflows.compute.kubernetes.pods.suspension import observe_suspended
from knit_workflows.compute.kubernetes.pods.timeline import timeline_of
from knit_workflows.compute.kubernetes.pods.waits import WAITS
from knit_workflows.compute.kubernetes.specs.run_containers import MAIN
from knit_workflows.domain.runs.run import SUCCEEDED

ABSENT: Final = Observation(Phase.ABSENT)
REMOVED: Final = Observation(
    Phase.ABSENT, disruption="removed from its Job before its end was seen"
)
_ORDER: Final = {
    Phase.PENDING: 0,
    Phase.RUNNING: 1,
    Phase.SUCCEEDED: 2,
    Phase.FAILED: 2,
    Phase.ABSENT: 3,
}


def is_change(last: Observation | None, present: Observation) -> bool:
    """Says whether a watch that yielded `last` should yield `present`.

    A pod only moves forward. What looks like a step back is its removal: then an ended pod looks
    like one that was deleted, and a Job that has just lost its pod like one that never had any.
    """
    if last is None or last.phase is Phase.ABSENT:
        return present != last
    if present.phase is last.phase:
        return present != last and last.exit is None
    return _ORDER[present.phase] > _ORDER[last.phase]


def relevant_pod(pods: Sequence[JsonObject]) -> JsonObject:
    """Gives the pod that represents a Job.

    Rarely the Job controller creates two: one that may still be writing comes first, then the
    newest.
    """

    def rank(pod: JsonObject) -> tuple[bool, str]:
        return (not has_final_phase(pod), pod["metadata"].get("creationTimestamp", ""))

    return max(pods, key=rank)


def observe_pod(
    pod: JsonObject,
    warnings: Sequence[WarningEvent],
    now: datetime,
    *,
    foreign_grace: timedelta = timedelta(),
    job: JsonObject | None = None,
) -> Observation:
    """Observes a run pod; `job` is its Job where `endings.needs_job` asks for it."""
    main = status_of(pod, MAIN)
    digest = _image_that_ran(pod, main)
    ended = ending(pod, now, foreign_grace, job)
    if ended is not None:
        return Observation(
            Phase.SUCCEEDED if ended.exit == SUCCEEDED else Phase.FAILED,
            exit=ended.exit,
            image_digest=digest,
            timeline=timeline_of(pod),
            notes=ended.notes,
            lingering=ended.lingering,
            oom_killed=ended.oom_killed,
            disruption=ended.disruption,
        )
    state = main.get("state") or {}
    if "running" in state or ("terminated" in state and not could_not_start(main)):
        return Observation(
            Phase.RUNNING,
            image_digest=digest,
            disruption=being_taken_away(pod),
            timeline=timeline_of(pod),
        )
    return Observation(
        Phase.PENDING,
        start_failure=start_failure_of_pod(pod, warnings, now),
        image_digest=digest,
        timeline=timeline_of(pod),
    )


def observe_job(job: JsonObject | None, warnings: Sequence[WarningEvent]) -> Observation:
    """Observes a Job without a pod."""
    if job is None:
        return ABSENT
    status = job.get("status", {})
    counts = ("succeeded", "failed", "terminating")
    uncounted = status.get("uncountedTerminatedPods") or {}
    had_pods = any(status.get(count) or uncounted.get(count) for count in counts)
    if had_pods or condition_is(job, "Failed") or condition_is(job, "Complete"):
        # Its pod existed and was removed. A Job that goes says that this is meant to last.
        return ABSENT if being_deleted(job) else REMOVED
    if being_deleted(job):
        # Its controller may be creating the pod right now: only absent once the Job is gone.
        return Observation(Phase.PENDING, start_failure=WAITS["Deleting"].failure())
    return observe_suspended(job) or Observation(
        Phase.PENDING, start_failure=start_failure_of_job(warnings)
    )


def _image_that_ran(pod: JsonObject, main: JsonObject) -> str | None:
    # `image` in the status is another name too once the node knows another one.
    named = (one.get("image", "") for one in pod["spec"]["containers"] if one["name"] == MAIN)
    image_id: str = main.get("imageID") or ""
    return image_that_ran([image_id], image_id.rpartition("://")[2], next(named, ""))
