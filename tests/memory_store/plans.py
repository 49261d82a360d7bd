"""`PlanStore` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from knit_workflows.domain.errors import CyclicPlans, EquivalentPlan, TooManyRuns
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.matching import count, page
from knit_workflows.domain.plans.graph import find_cycle, identity_hash, node_of
from knit_workflows.domain.plans.model import (
    AnnotationChange,
    PlanDetail,
    PlanPreview,
    PlanQuery,
    PlanSpec,
    ResourceChange,
)
from knit_workflows.domain.plans.options import PlanOptions
from knit_workflows.domain.plans.rules import DEFAULT_RESOURCES
from knit_workflows.domain.quantities import canonical_quantity
from knit_workflows.domain.runs.run import USER, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.store.not_found import missing_plan
from tests.memory_store.details import input_mountpoint, outputs_and_log, plan_detail
from tests.memory_store.matching import candidates, project_plan
from tests.memory_store.memory import Memory, Part, PlanRow, as_shown
from tests.memory_store.moves import move

_NOT_BEGUN = {RunStatus.WAITING, RunStatus.DEACTIVATED}


class MemoryPlans(Part):
    """Plans by id."""

    async def register(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        rows = self.rows
        _refuse(rows, spec)
        runs = count(candidates(rows, [one.requirement for one in spec.inputs]), None)
        if new_runs_limit is not None and runs > new_runs_limit:
            raise TooManyRuns(f"the Plan would at once create {runs} Runs", advice="confirm it")
        plan = insert_plan(rows, spec)
        project_plan(rows, plan)
        return plan_detail(rows, plan)

    async def preview(self, spec: PlanSpec, *, limit: int) -> PlanPreview:
        rows = self.rows
        _refuse(rows, spec)
        found = candidates(rows, [one.requirement for one in spec.inputs])
        paths = [one.path for one in spec.inputs]
        return PlanPreview(
            runs=count(found, None),
            candidates=dict(zip(paths, map(len, found), strict=True)),
            assignments=tuple(
                dict(zip(paths, map(KnitId, knit_ids), strict=True))
                for knit_ids in page(found, None, None, limit).items
            ),
        )

    async def find(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        rows = self.rows
        rows.asked.append(query)
        found = [
            plan
            for plan_id, plan in sorted(rows.plans.items())
            if _matches(plan, query) and (after is None or plan_id > after)
        ]
        return [plan_detail(rows, plan) for plan in found[:limit]]

    async def within(self, projects: frozenset[Tag]) -> frozenset[PlanId]:
        return frozenset(
            plan.plan_id
            for plan in self.rows.plans.values()
            if plan.name is None
            and all(
                projects & tags
                for tags in [
                    *(one.requirement.tags for one in plan.spec.inputs),
                    *(tags for _, tags in outputs_and_log(plan)),
                ]
            )
        )

    async def get(self, plan_id: PlanId) -> PlanDetail:
        rows = self.rows
        if plan_id not in rows.plans:
            raise missing_plan(plan_id)
        return plan_detail(rows, rows.plans[plan_id])

    async def set_active(self, plan_id: PlanId, active: bool, *, actor: str = USER) -> PlanDetail:
        plan = self._changed(plan_id, active=active)
        ends = (RunStatus.DEACTIVATED, RunStatus.WAITING)
        source, target = ends if active else reversed(ends)
        cause = "Plan activated" if active else "Plan deactivated"
        for run in self.rows.runs.values():
            if run.plan_id == plan_id and run.status is source:
                move(self.rows, run, target, cause=cause, touch=False, actor=actor)
        return plan_detail(self.rows, plan)

    async def change_resources(self, plan_id: PlanId, change: ResourceChange) -> PlanDetail:
        before = self._of_a_user(plan_id).spec.resources
        kept = {name: text for name, text in before.items() if name not in change.unset}
        wanted = {name: canonical_quantity(text) for name, text in change.set.items()}
        resources = {**DEFAULT_RESOURCES, **kept, **wanted}
        return plan_detail(self.rows, self._changed(plan_id, resources=resources))

    async def change_annotations(self, plan_id: PlanId, change: AnnotationChange) -> PlanDetail:
        notes = set(self._of_a_user(plan_id).spec.annotations) - change.remove
        notes = {note for note in notes if note.key not in change.remove_keys} | change.add
        return plan_detail(self.rows, self._changed(plan_id, annotations=tuple(sorted(notes))))

    async def set_service_account(self, plan_id: PlanId, name: str | None) -> PlanDetail:
        return plan_detail(self.rows, self._changed(plan_id, service_account=name))

    async def set_options(self, plan_id: PlanId, options: PlanOptions) -> PlanDetail:
        return plan_detail(self.rows, self._changed(plan_id, options=options))

    async def set_priority(self, plan_id: PlanId, priority: int) -> PlanDetail:
        plan = self._changed(plan_id, priority=priority)
        for run in self.rows.runs.values():
            if run.plan_id == plan_id and run.status in _NOT_BEGUN:
                run.priority = priority
        return plan_detail(self.rows, plan)

    def _of_a_user(self, plan_id: PlanId) -> PlanRow:
        plan = self.rows.plans.get(plan_id)
        if plan is None or plan.name is not None:
            raise missing_plan(plan_id)
        return plan

    def _changed(self, plan_id: PlanId, **changes: Any) -> PlanRow:
        plan = self._of_a_user(plan_id)
        plan.spec = replace(plan.spec, **changes)
        return plan


def insert_plan(memory: Memory, spec: PlanSpec) -> PlanRow:
    """Adds a Plan as it is, without its Runs."""
    spec = replace(
        spec,
        on_node=tuple(sorted(spec.on_node)),
        annotations=tuple(sorted(spec.annotations)),
    )
    plan = PlanRow(PlanId(str(uuid4())), spec, memory.now())
    memory.plans[plan.plan_id] = plan
    memory.identities[identity_hash(spec)] = plan.plan_id
    node = node_of(spec)
    memory.tags |= frozenset().union(*(one.tags for one in node.inputs), *node.outputs)
    return plan


def _refuse(memory: Memory, spec: PlanSpec) -> None:
    """Raises EquivalentPlan, CyclicPlans."""
    known = memory.identities.get(identity_hash(spec))
    if known is not None:
        raise EquivalentPlan(f"the Plan {known} is equivalent", advice="use that Plan", see=known)
    others = {plan_id: node_of(plan.spec) for plan_id, plan in memory.plans.items()}
    cycle = find_cycle(node_of(spec), {PlanId(one): node for one, node in others.items()})
    if cycle is not None:
        way = " → ".join(["the new Plan", *cycle, "the new Plan"])
        see = cycle[0] if cycle else ""
        raise CyclicPlans(f"the Plan would feed itself: {way}", advice="change a tag", see=see)


def _matches(plan: PlanRow, query: PlanQuery) -> bool:
    image = plan.spec.image if plan.name is None else None
    has: Mapping[str, object] = {
        "active": plan.spec.active,
        "repository": image and image.repository,
        "image_tag": image and image.image_tag,
        "image_digest": image and image.digest,
    }
    return (
        (query.plan_ids is None or plan.plan_id in query.plan_ids)
        and all(getattr(query, key) in (None, value) for key, value in has.items())
        and _some(query.input_tags, [input_mountpoint(one).tags for one in plan.spec.inputs])
        and _some(query.output_tags, [tags for _, tags in outputs_and_log(plan)])
    )


def _some(wanted: Sequence[Tag], mountpoints: Sequence[Sequence[Tag] | frozenset[Tag]]) -> bool:
    """Says whether some mountpoint has all these tags."""
    shown = {as_shown(tag) for tag in wanted}
    return not shown or any(shown <= set(tags) for tags in mountpoints)
