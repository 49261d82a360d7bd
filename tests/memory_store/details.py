"""Rows become what callers get: Plans, Runs and Data with their neighbours."""

from __future__ import annotations

from collections.abc import Iterable

from knit_workflows.domain.data import DataDetail, Downstream, Nomination, Upstream
from knit_workflows.domain.plans.graph import feeds
from knit_workflows.domain.plans.model import (
    LinkedMountpoint,
    Mountpoint,
    PlanDetail,
    PlanInput,
    PlanLink,
    PlanSummary,
    Requirement,
)
from knit_workflows.domain.runs.run import (
    Assignment,
    LogAssignment,
    RunDetail,
    RunStatus,
    RunSummary,
    Waiting,
    WaitKind,
)
from knit_workflows.domain.tags import (
    KEY_ID,
    KEY_TRANSIENT,
    TRANSIENT_FAILED,
    TRANSIENT_PROCESSING,
    TRANSIENT_PURGED,
    Tag,
    timestamp_tag,
)
from tests.memory_store.matching import fills
from tests.memory_store.memory import DataRow, Memory, PlanRow, RunRow
from tests.plan_documents import requirement_tags

# --- Plans ---


def plan_summary(plan: PlanRow) -> PlanSummary:
    spec = plan.spec
    image = spec.image if plan.name is None else None
    return PlanSummary(plan.plan_id, image, plan.name, spec.entrypoint, spec.args, spec.annotations)


def plan_detail(memory: Memory, plan: PlanRow) -> PlanDetail:
    spec = plan.spec
    return PlanDetail(
        summary=plan_summary(plan),
        inputs=tuple(
            LinkedMountpoint(input_mountpoint(one), _producers(memory, one.requirement))
            for one in spec.inputs
        ),
        outputs=tuple(
            LinkedMountpoint(_mountpoint(one.path, one.tags), _consumers(memory, one.tags))
            for one in spec.outputs
        ),
        log=None
        if spec.log is None
        else LinkedMountpoint(_mountpoint("/log", spec.log), _consumers(memory, spec.log)),
        active=spec.active,
        on_node=spec.on_node,
        resources=spec.resources,
        service_account=spec.service_account,
        options=spec.options,
        priority=spec.priority,
    )


def outputs_and_log(plan: PlanRow) -> list[tuple[str | None, frozenset[Tag]]]:
    """Gives the outputs of a Plan by path, and its log (None) if it has one."""
    found: list[tuple[str | None, frozenset[Tag]]] = [
        (one.path, one.tags) for one in plan.spec.outputs
    ]
    return found if plan.spec.log is None else [*found, (None, plan.spec.log)]


def input_mountpoint(one: PlanInput) -> Mountpoint:
    return _mountpoint(one.path, requirement_tags(one.requirement))


def _mountpoint(path: str, tags: Iterable[Tag]) -> Mountpoint:
    return Mountpoint(path, tuple(sorted(tags)))


def _producers(memory: Memory, wanted: Requirement) -> tuple[PlanLink, ...]:
    return _by_plan(
        PlanLink(plan_summary(plan), path, tuple(sorted(tags)))
        for plan in memory.plans.values()
        for path, tags in outputs_and_log(plan)
        if feeds(tags, wanted)
    )


def _consumers(memory: Memory, tags: frozenset[Tag]) -> tuple[PlanLink, ...]:
    return _by_plan(
        PlanLink(plan_summary(plan), one.path, input_mountpoint(one).tags)
        for plan in memory.plans.values()
        for one in plan.spec.inputs
        if feeds(tags, one.requirement)
    )


def _by_plan(links: Iterable[PlanLink]) -> tuple[PlanLink, ...]:
    return tuple(sorted(links, key=lambda link: (link.plan.plan_id, link.path or "")))


# --- Runs ---


def run_summary(memory: Memory, run: RunRow) -> RunSummary:
    plan = plan_summary(memory.plans[run.plan_id])
    return RunSummary(run.run_id, run.status, run.updated_at, run.exit, plan)


def run_detail(memory: Memory, run: RunRow) -> RunDetail:
    spec = memory.plans[run.plan_id].spec
    return RunDetail(
        summary=run_summary(memory, run),
        generation=run.generation,
        inputs=tuple(
            Assignment(one.path, input_mountpoint(one).tags, run.inputs.get(one.path))
            for one in spec.inputs
        ),
        outputs=tuple(
            Assignment(one.path, tuple(sorted(one.tags)), run.outputs.get(one.path))
            for one in spec.outputs
        ),
        log=None
        if spec.log is None
        else LogAssignment(tuple(sorted(spec.log)), run.outputs.get(None)),
        priority=run.priority,
        used=None if run.status is RunStatus.STARTING else run.used,
        waiting=run.waiting or _why_waiting(memory, run),
        notes=run.notes,
    )


def _why_waiting(memory: Memory, run: RunRow) -> Waiting | None:
    """Nobody admits a Run here: the queue is by priority and age."""
    if run.status is RunStatus.DEACTIVATED:
        return Waiting(None, "its Plan is not active", WaitKind.INACTIVE)
    if run.status is not RunStatus.WAITING:
        return None
    queue = sorted(
        (-one.priority, one.created_at, one.run_id)
        for one in memory.runs.values()
        if one.status is RunStatus.WAITING
    )
    place = 1 + queue.index((-run.priority, run.created_at, run.run_id))
    return Waiting(place, f"number {place} in queue")


# --- Data ---


def all_tags(memory: Memory, one: DataRow) -> tuple[Tag, ...]:
    """Gives the tags of a Data, those that knit computes too; by key, then value."""
    tags = {*one.tags, Tag(KEY_ID, one.knit_id)}
    if one.timestamp is not None:
        tags.add(timestamp_tag(one.timestamp))
    status = memory.runs[one.run_id].status
    if one.purged:
        tags.add(Tag(KEY_TRANSIENT, TRANSIENT_PURGED))
    elif not status.is_final:
        tags.add(Tag(KEY_TRANSIENT, TRANSIENT_PROCESSING))
    elif status is not RunStatus.DONE:
        tags.add(Tag(KEY_TRANSIENT, TRANSIENT_FAILED))
    return tuple(sorted(tags))


def data_detail(memory: Memory, one: DataRow) -> DataDetail:
    made_by = memory.runs[one.run_id]
    tags = dict(outputs_and_log(memory.plans[made_by.plan_id]))[one.path]
    return DataDetail(
        knit_id=one.knit_id,
        tags=all_tags(memory, one),
        upstream=Upstream(one.path, tuple(sorted(tags)), run_summary(memory, made_by)),
        downstreams=tuple(_downstreams(memory, one)),
        nominations=tuple(
            Nomination(input_mountpoint(asked), plan_summary(plan))
            for plan in sorted(memory.plans.values(), key=lambda plan: plan.plan_id)
            for asked in plan.spec.inputs
            if fills(memory, one, asked.requirement)
        ),
        adopted_volume=one.adopted_volume,
    )


def _downstreams(memory: Memory, one: DataRow) -> Iterable[Downstream]:
    for run_id in one.users:
        run = memory.runs[run_id]
        if run.status is RunStatus.INVALIDATED:
            continue
        for asked in memory.plans[run.plan_id].spec.inputs:
            if run.inputs[asked.path] == one.knit_id:
                yield Downstream(input_mountpoint(asked), run_summary(memory, run))
