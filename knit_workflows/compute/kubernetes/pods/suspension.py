"""Observes suspended Jobs, which Kueue starts and may suspend again; pure."""

from __future__ import annotations

from typing import Final

from knit_workflows.compute.base import Observation, Phase
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.pods.waits import WAITS
from knit_workflows.domain.plans.options import QUEUE_LABEL
from knit_workflows.domain.runs.run import LOST, Exit

SUSPENDED: Final = "JobSuspended"
"""Reason of a Job that has not been started yet."""


def observe_suspended(job: JsonObject) -> Observation | None:
    """Observes a suspended Job without a pod; None if it is not suspended.

    Each change of a spec counts in `generation`. A Job that is suspended in its first one was never
    started; in a later one somebody has suspended it again, after its container may have run, and
    it must not run twice.
    """
    if not job.get("spec", {}).get("suspend"):
        return None
    about = job["metadata"]
    queue = (about.get("labels") or {}).get(QUEUE_LABEL)
    if about.get("generation", 1) > 1:
        who = f"Kueue, for others in its queue {queue}" if queue else "somebody"
        exit = Exit(LOST.code, f"(job {about['name']}) suspended after its start, perhaps by {who}")
        return Observation(Phase.FAILED, exit=exit)
    message = (
        f"the Job waits in the queue {queue} of Kueue, which starts it when there is room; "
        f"`kubectl get workloads` says more"
        if queue
        else "the Job is suspended; it starts when somebody resumes it"
    )
    return Observation(Phase.PENDING, start_failure=WAITS[SUSPENDED].failure(message))
