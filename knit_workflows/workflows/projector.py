"""`knit.Projector`: keeps a long activity running that turns commits into Runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio import workflow

from knit_workflows import names
from knit_workflows.contracts.messages import Nothing
from knit_workflows.contracts.projector import ProjectorActivities, ProjectorInput
from knit_workflows.workflows import options

DRAINS_PER_EXECUTION: Final = 200
"""About 1,600 history events, far below the server's threshold for continue-as-new."""


@workflow.defn(name=names.PROJECTOR_WORKFLOW, sandboxed=False)
class ProjectorWorkflow:
    """The Projector of one shard; never ends."""

    @workflow.run
    async def run(self, request: ProjectorInput) -> Nothing:
        """Drains again and again; continues as new before the history grows long."""
        for _ in range(DRAINS_PER_EXECUTION):
            drained = await workflow.execute_activity_method(
                ProjectorActivities.drain_outbox,
                request,
                task_queue=request.engine_queue,
                start_to_close_timeout=timedelta(minutes=30),
                heartbeat_timeout=request.heartbeat,
                retry_policy=options.AT_ONCE,
                summary="turn commits into Runs",
            )
            # So that changed settings reach a Projector that never ends.
            request = drained.next_input or request
            workflow.set_current_details(
                f"last drain: {drained.events} events, {drained.runs_created} Runs created, "
                f"{drained.runs_started} started"
            )
            if workflow.info().is_continue_as_new_suggested():
                break
        workflow.continue_as_new(request, task_timeout=request.heartbeat)
