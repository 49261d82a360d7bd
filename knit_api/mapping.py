"""Domain values to wire types: the one place where their names meet.

A page of Data mentions the same few Plans and mountpoints, and the same tags, thousands of times: a
`ToWire` maps each once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from knit_api.events import RunEvent
from knit_api.schemas import data as wire_data
from knit_api.schemas import plans as wire_plans
from knit_api.schemas import runs as wire_runs
from knit_api.schemas.tags import Tag
from knit_workflows.domain import data as domain_data
from knit_workflows.domain import plans, runs
from knit_workflows.domain import tags as domain_tags


class ToWire:
    """Maps the domain values of one response: a Plan, a Run, a mountpoint, a tag each once.

    Mountpoints are known by identity, so what it is given must live as long as it does.
    """

    def __init__(self) -> None:
        self._tag_of: dict[domain_tags.Tag, Tag] = {}
        self._plan_of: dict[str, wire_plans.PlanSummary] = {}
        self._run_of: dict[str, wire_runs.RunSummary] = {}
        self._mountpoint_of: dict[int, wire_plans.Mountpoint] = {}

    def _tags(self, tags: Iterable[domain_tags.Tag]) -> list[Tag]:
        """Give tags in the order they come."""
        return [self._tag(tag) for tag in tags]

    def _tag(self, tag: domain_tags.Tag) -> Tag:
        known = self._tag_of.get(tag)
        if known is None:
            known = self._tag_of[tag] = Tag(key=tag.key, value=tag.value)
        return known

    def _plan_summary(self, plan: plans.PlanSummary) -> wire_plans.PlanSummary:
        known = self._plan_of.get(plan.plan_id)
        if known is None:
            known = self._plan_of[plan.plan_id] = _plan_summary(plan)
        return known

    def _mountpoint(self, point: plans.Mountpoint) -> wire_plans.Mountpoint:
        known = self._mountpoint_of.get(id(point))
        if known is None:
            known = wire_plans.Mountpoint(path=point.path, tags=self._tags(point.tags))
            self._mountpoint_of[id(point)] = known
        return known

    def _run_summary(self, run: runs.RunSummary) -> wire_runs.RunSummary:
        known = self._run_of.get(run.run_id)
        if known is None:
            known = self._run_of[run.run_id] = wire_runs.RunSummary(
                run_id=run.run_id,
                status=run.status.value,
                updated_at=run.updated_at.astimezone(UTC),
                exit=_exit(run.exit),
                plan=self._plan_summary(run.plan),
            )
        return known

    def plan(self, plan: plans.PlanDetail) -> wire_plans.Plan:
        """Give a Plan in full."""
        return wire_plans.Plan(
            **dict(self._plan_summary(plan.summary)),
            inputs=[self._input(one) for one in plan.inputs],
            outputs=[self._output(one) for one in plan.outputs],
            log=None if plan.log is None else self._log(plan.log),
            active=plan.active,
            on_node=_on_node(plan.on_node),
            resources=dict(plan.resources),
            service_account=plan.service_account,
            priority=plan.priority,
        )

    def _input(self, point: plans.LinkedMountpoint) -> wire_plans.PlanInput:
        return wire_plans.PlanInput(
            path=point.mountpoint.path,
            tags=self._tags(point.mountpoint.tags),
            upstreams=[self._upstream(link) for link in point.links],
        )

    def _output(self, point: plans.LinkedMountpoint) -> wire_plans.PlanOutput:
        return wire_plans.PlanOutput(
            path=point.mountpoint.path,
            tags=self._tags(point.mountpoint.tags),
            downstreams=[self._downstream(link) for link in point.links],
        )

    def _log(self, point: plans.LinkedMountpoint) -> wire_plans.PlanLog:
        return wire_plans.PlanLog(
            tags=self._tags(point.mountpoint.tags),
            downstreams=[self._downstream(link) for link in point.links],
        )

    def _upstream(self, link: plans.PlanLink) -> wire_plans.PlanUpstream:
        plan, tags = self._plan_summary(link.plan), self._tags(link.tags)
        if link.path is None:
            return wire_plans.PlanUpstream(plan=plan, log=wire_plans.LogPoint(tags=tags))
        mountpoint = wire_plans.Mountpoint(path=link.path, tags=tags)
        return wire_plans.PlanUpstream(plan=plan, mountpoint=mountpoint)

    def _downstream(self, link: plans.PlanLink) -> wire_plans.PlanDownstream:
        # What consumes is always an input, and an input has a path.
        return wire_plans.PlanDownstream(
            plan=self._plan_summary(link.plan),
            mountpoint=wire_plans.Mountpoint(path=link.path or "", tags=self._tags(link.tags)),
        )

    def run(self, run: runs.RunDetail) -> wire_runs.Run:
        """Give a Run in full."""
        return wire_runs.Run(
            **dict(self._run_summary(run.summary)),
            inputs=[self._assignment(one) for one in run.inputs],
            outputs=[self._assignment(one) for one in run.outputs],
            log=None if run.log is None else self._log_assignment(run.log),
            generation=run.generation,
            priority=run.priority,
            used=None if run.used is None else _used(run.used),
            waiting=None if run.waiting is None else _waiting(run.waiting),
        )

    def _assignment(self, one: runs.Assignment) -> wire_runs.Assignment:
        return wire_runs.Assignment(
            path=one.path, tags=self._tags(one.tags), knit_id=one.knit_id or ""
        )

    def _log_assignment(self, log: runs.LogAssignment) -> wire_runs.LogAssignment:
        return wire_runs.LogAssignment(tags=self._tags(log.tags), knit_id=log.knit_id or "")

    def data(self, one: domain_data.DataDetail) -> wire_data.Data:
        """Give a Data with its neighbours."""
        return wire_data.Data(
            knit_id=one.knit_id,
            tags=self._tags(one.tags),
            upstream=self._data_upstream(one.upstream),
            downstreams=[
                wire_data.DataDownstream(
                    mountpoint=self._mountpoint(down.mountpoint), run=self._run_summary(down.run)
                )
                for down in one.downstreams
            ],
            nomination=[
                wire_data.Nomination(
                    **dict(self._mountpoint(nominated.mountpoint)),
                    plan=self._plan_summary(nominated.plan),
                )
                for nominated in one.nominations
            ],
        )

    def _data_upstream(self, upstream: domain_data.Upstream) -> wire_data.DataUpstream:
        run, tags = self._run_summary(upstream.run), self._tags(upstream.tags)
        if upstream.path is None:
            return wire_data.DataUpstream(run=run, log=wire_plans.LogPoint(tags=tags))
        mountpoint = wire_plans.Mountpoint(path=upstream.path, tags=tags)
        return wire_data.DataUpstream(run=run, mountpoint=mountpoint)


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


def _plan_summary(plan: plans.PlanSummary) -> wire_plans.PlanSummary:
    return wire_plans.PlanSummary(
        plan_id=plan.plan_id,
        image=str(plan.image) if plan.image else None,
        name=plan.name,
        entrypoint=list(plan.entrypoint),
        args=list(plan.args),
        annotations=[str(note) for note in plan.annotations],
    )
