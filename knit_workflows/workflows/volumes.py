"""`knit.Volumes`: asks the back-end about volumes, for the API, which has no rights on it."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RetryPolicy

from knit_workflows import names
from knit_workflows.contracts.volumes import (
    LookAtVolumes,
    VolumeActivities,
    VolumeAnswers,
    VolumesInput,
)
from knit_workflows.workflows import options


@workflow.defn(name=names.VOLUMES_WORKFLOW, sandboxed=False)
class VolumesWorkflow:
    """One question; it changes nothing, so nothing is lost with it."""

    @workflow.run
    async def run(self, request: VolumesInput) -> VolumeAnswers:
        """Asks; a user waits, so only a worker that died is replaced."""
        return await workflow.execute_activity_method(
            VolumeActivities.look_at_volumes,
            LookAtVolumes(question=request.question, names=request.names),
            task_queue=request.compute_queue,
            start_to_close_timeout=options.SHORT,
            heartbeat_timeout=request.heartbeat,
            retry_policy=RetryPolicy(maximum_attempts=3),
            summary=f"{request.question} of {len(request.names)} volumes",
        )
