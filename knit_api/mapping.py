"""Domain values to wire types: the one place where their names meet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from knit_api.events import RunEvent
from knit_api.schemas import data as wire_data
from knit_api.schemas import plans as wire_plans
from knit_api.schemas import runs as wire_runs
from knit_api.schemas.tags import Tag
from knit_workflows.domain import data, plans, runs
from knit_workflows.domain import tags as domain_tags


def tags_to_wire(tags: Iterable[domain_tags.Tag]) -> list[Tag]:
    """Give tags in the order they come."""
    return [Tag(key=tag.key, value=tag.value) for tag in tags]


# --- Plans ---


def plan_summary_to_wire(plan: plans.PlanSummary) -> wire_plans.PlanSummary:
    """Give what identifies a Plan."""
    return wire_plans.PlanSummary(
        plan_id=plan.plan_id,
        image=str(plan.image) if plan.image else None,
        name=plan.name,
        entrypoint=list(plan.entrypoint),
        args=list(plan.args),
        annotations=[str(note) for note in plan.annotations],
    )


def plan_to_wire(plan: plans.PlanDetail) -> wire_plans.Plan:
    """Give a Plan in full."""
    return wire_plans.Plan(
        **dict(plan_summary_to_wire(plan.summary)),
        inputs=[_input(one) for one in plan.inputs],
        outputs=[_output(one) for one in plan.outputs],
        log=None if plan.log is None else _log(plan.log),
        active=plan.active,
        on_node=_on_node(plan.on_node),
        resources=dict(plan.resources),
        service_account=plan.service_account,
        priority=plan.priority,
    )


def preview_to_wire(preview: plans.PlanPreview) -> wire_plans.PlanPreview:
    """Give what registering a Plan would do."""
    return wire_plans.PlanPreview(
        runs=preview.runs,
        inputs=[
            wire_plans.InputPreview(path=path, data=data)
            for path, data in preview.candidates.items()
        ],
        assignments=[dict(one) for one in preview.assignments],
    )


def _mountpoint(point: plans.Mountpoint) -> wire_plans.Mountpoint:
    return wire_plans.Mountpoint(path=point.path, tags=tags_to_wire(point.tags))


def _input(point: plans.LinkedMountpoint) -> wire_plans.PlanInput:
    return wire_plans.PlanInput(
        path=point.mountpoint.path,
        tags=tags_to_wire(point.mountpoint.tags),
        upstreams=[_upstream(link) for link in point.links],
    )


def _output(point: plans.LinkedMountpoint) -> wire_plans.PlanOutput:
    return wire_plans.PlanOutput(
        path=point.mountpoint.path,
        tags=tags_to_wire(point.mountpoint.tags),
        downstreams=[_downstream(link) for link in point.links],
    )


def _log(point: plans.LinkedMountpoint) -> wire_plans.PlanLog:
    return wire_plans.PlanLog(
        tags=tags_to_wire(point.mountpoint.tags),
        downstreams=[_downstream(link) for link in point.links],
    )


def _upstream(link: plans.PlanLink) -> wire_plans.PlanUpstream:
    plan, tags = plan_summary_to_wire(link.plan), tags_to_wire(link.tags)
    if link.path is None:
        return wire_plans.PlanUpstream(plan=plan, log=wire_plans.LogPoint(tags=tags))
    mountpoint = wire_plans.Mountpoint(path=link.path, tags=tags)
    return wire_plans.PlanUpstream(plan=plan, mountpoint=mountpoint)


def _downstream(link: plans.PlanLink) -> wire_plans.PlanDownstream:
    # What consumes is always an input, and an input has a path.
    return wire_plans.PlanDownstream(
        plan=plan_summary_to_wire(link.plan),
        mountpoint=wire_plans.Mountpoint(path=link.path or "", tags=tags_to_wire(link.tags)),
    )


def _on_node(rules: Iterable[plans.NodeRule]) -> wire_plans.OnNode | None:
    by_mode: dict[plans.NodeMode, list[str]] = {mode: [] for mode in plans.NodeMode}
    for rule in rules:
        by_mode[rule.mode].append(f"{rule.key}={rule.value}")
    if not any(by_mode.values()):
        return None
    return wire_plans.OnNode(
        may=by_mode[plans.NodeMode.MAY],
        prefer=by_mode[plans.NodeMode.PREFER],
        must=by_mode[plans.NodeMode.MUST],
    )


# --- Runs ---


def run_summary_to_wire(run: runs.RunSummary) -> wire_runs.RunSummary:
    """Give what identifies a Run, and how far it is."""
    return wire_runs.RunSummary(
        run_id=run.run_id,
        status=run.status.value,
        updated_at=run.updated_at.astimezone(UTC),
        exit=_exit(run.exit),
        plan=plan_summary_to_wire(run.plan),
    )


def run_to_wire(run: runs.RunDetail) -> wire_runs.Run:
    """Give a Run in full."""
    return wire_runs.Run(
        **dict(run_summary_to_wire(run.summary)),
        inputs=[_assignment(one) for one in run.inputs],
        outputs=[_assignment(one) for one in run.outputs],
        log=None if run.log is None else _log_assignment(run.log),
        generation=run.generation,
        priority=run.priority,
        used=None if run.used is None else _used(run.used),
        waiting=None if run.waiting is None else _waiting(run.waiting),
    )


def event_to_wire(event: runs.RunEvent) -> RunEvent:
    """Give one change of a Run's status."""
    return RunEvent(
        at=event.at.astimezone(UTC),
        generation=event.generation,
        from_status=event.from_status.value if event.from_status else None,
        to_status=event.to_status.value,
        cause=event.cause,
        exit=_exit(event.exit),
    )


def _exit(ending: runs.Exit | None) -> wire_runs.Exit | None:
    return None if ending is None else wire_runs.Exit(code=ending.code, message=ending.message)


def _used(used: runs.Used) -> wire_runs.Used:
    return wire_runs.Used(
        resources=dict(used.resources),
        service_account=used.service_account,
        image_digest=used.image_digest,
    )


def _waiting(waiting: runs.Waiting) -> wire_runs.Waiting:
    return wire_runs.Waiting(place=waiting.place, reason=waiting.reason)


def _assignment(one: runs.Assignment) -> wire_runs.Assignment:
    return wire_runs.Assignment(
        path=one.path, tags=tags_to_wire(one.tags), knit_id=one.knit_id or ""
    )


def _log_assignment(log: runs.LogAssignment) -> wire_runs.LogAssignment:
    return wire_runs.LogAssignment(tags=tags_to_wire(log.tags), knit_id=log.knit_id or "")


# --- Data ---


def data_to_wire(one: data.DataDetail) -> wire_data.Data:
    """Give a Data with its neighbours."""
    return wire_data.Data(
        knit_id=one.knit_id,
        tags=tags_to_wire(one.tags),
        upstream=_data_upstream(one.upstream),
        downstreams=[
            wire_data.DataDownstream(
                mountpoint=_mountpoint(down.mountpoint), run=run_summary_to_wire(down.run)
            )
            for down in one.downstreams
        ],
        nomination=[
            wire_data.Nomination(
                **dict(_mountpoint(nominated.mountpoint)), plan=plan_summary_to_wire(nominated.plan)
            )
            for nominated in one.nominations
        ],
    )


def _data_upstream(upstream: data.Upstream) -> wire_data.DataUpstream:
    run, tags = run_summary_to_wire(upstream.run), tags_to_wire(upstream.tags)
    if upstream.path is None:
        return wire_data.DataUpstream(run=run, log=wire_plans.LogPoint(tags=tags))
    mountpoint = wire_plans.Mountpoint(path=upstream.path, tags=tags)
    return wire_data.DataUpstream(run=run, mountpoint=mountpoint)
