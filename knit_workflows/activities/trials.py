"""The activity of `knit.TryPlan`: asks the back-end what it would refuse of a Plan."""

from __future__ import annotations

import uuid

from temporalio import activity

from knit_workflows import names
from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.compute.base import ComputeBackend, RunPod
from knit_workflows.contracts.trials import TrialActivities, TrialResult, TryPlan
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.plans.model import LOG_PATH, PlanSpec
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.domain.volumes import AS_INSTALLED, Mount, Volume, VolumeOptions


class ComputeTrialActivities(TrialActivities):
    """Tries Plans through a compute back-end."""

    def __init__(self, backend: ComputeBackend) -> None:
        self._backend = backend

    @activity.defn(name="knit.try_plan")
    async def try_plan(self, request: TryPlan) -> TrialResult:
        """Asks while it sends heartbeats."""
        async with heartbeating():
            return await self.result(request)

    async def result(self, request: TryPlan) -> TrialResult:
        """Asks; that the back-end is away is a result too, because a user is waiting."""
        try:
            trial = await self._backend.try_launch(trial_pod(parse_plan(request.document)))
        except KnitError as error:
            return TrialResult(kind=type(error).__name__, reason=error.reason, advice=error.advice)
        return TrialResult(
            refusals=list(trial.refusals),
            warnings=list(trial.warnings),
            unchecked=list(trial.unchecked),
        )


def trial_pod(plan: PlanSpec) -> RunPod:
    """Describes the pod of a Run of the Plan; its ids are new ones."""
    run_id = str(uuid.uuid4())
    return RunPod(
        name=names.run_pod(run_id, 1),
        run_id=run_id,
        generation=1,
        plan_id=str(uuid.uuid4()),
        image=str(plan.image),
        inputs=tuple(Mount(one.path, _volume()) for one in plan.inputs),
        outputs=tuple(
            Mount(one.path, _volume(plan.options.of_volume(one.path))) for one in plan.outputs
        ),
        log=None if plan.log is None else _volume(plan.options.of_volume(LOG_PATH)),
        entrypoint=plan.entrypoint,
        args=plan.args,
        resources=plan.resources,
        on_node=plan.on_node,
        service_account=plan.service_account,
        options=plan.options.pod,
    )


def _volume(options: VolumeOptions = AS_INSTALLED) -> Volume:
    knit_id = str(uuid.uuid4())
    return Volume(names.volume(knit_id), knit_id, options)
