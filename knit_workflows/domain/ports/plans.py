"""Plans: registered, looked up and changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.plans.model import (
    AnnotationChange,
    PlanDetail,
    PlanPreview,
    PlanQuery,
    PlanSpec,
    ResourceChange,
)
from knit_workflows.domain.plans.options import PlanOptions
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import Tag


class PlanStore(Protocol):
    """Registers Plans, looks them up and changes them.

    Changes raise PlanNotFound for built-in Plans too.
    """

    async def register(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        """Registers a Plan; the Runs that existing Data make possible follow.

        Raises:
            EquivalentPlan: the same Plan is registered already; `see` is its id.
            CyclicPlans: it would feed itself, perhaps through other Plans.
            TooManyRuns: it would create more than `new_runs_limit` Runs at once (None: no limit).
        """

    async def preview(self, spec: PlanSpec, *, limit: int) -> PlanPreview:
        """Says which Runs a Plan would create now, at most `limit` of them one by one.

        Nothing is registered.

        Raises:
            EquivalentPlan: the same Plan is registered already; `see` is its id.
            CyclicPlans: it would feed itself, perhaps through other Plans.
        """

    async def find(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        """Lists Plans by id, built-in ones included; at most `limit`, after the id `after`."""

    async def within(self, projects: frozenset[Tag]) -> frozenset[PlanId]:
        """Gives the Plans of users each of whose inputs and outputs has one of these tags.

        The log is an output. It costs little: neither Plans nor their neighbours are loaded.
        """

    async def get(self, plan_id: PlanId) -> PlanDetail:
        """Looks one Plan up; raises PlanNotFound."""

    async def set_active(self, plan_id: PlanId, active: bool, *, actor: str = USER) -> PlanDetail:
        """Activates or deactivates a Plan. Raises PlanNotFound.

        Its Runs move waiting ⇄ deactivated, some at a time. None is admitted once its Plan is
        inactive, moved or not. What is left, as this was interrupted or there are too many, a
        second call moves, or housekeeping.
        """

    async def change_resources(self, plan_id: PlanId, change: ResourceChange) -> PlanDetail:
        """Unsets, then sets; without `cpu` or `memory` their defaults apply. For later launches.

        Raises:
            PlanNotFound: there is no such Plan of a user's.
            InvalidQuantity: a value is not a Kubernetes quantity.
        """

    async def change_annotations(self, plan_id: PlanId, change: AnnotationChange) -> PlanDetail:
        """Removes annotations, then adds some; idempotent. Raises PlanNotFound."""

    async def set_service_account(self, plan_id: PlanId, name: str | None) -> PlanDetail:
        """Sets it for later launches; None: the default one. Raises PlanNotFound."""

    async def set_options(self, plan_id: PlanId, options: PlanOptions) -> PlanDetail:
        """Replaces all options of its run pods and volumes, for later launches.

        Raises PlanNotFound.
        """

    async def set_priority(self, plan_id: PlanId, priority: int) -> PlanDetail:
        """Sets the priority of its Runs: of those that wait and those to come. Raises PlanNotFound.

        Interrupted half-way, a second call completes it.
        """
