"""Maps domain values to the wire: the one place that knows the names on both sides.

It makes plain values under the contract's names, as the types of `wire` describe them: a page holds
thousands of Data, and building and serializing a model for each would be most of the work of a
request. A test holds both to the same shape.

A page of Data also mentions the same few Plans, Runs and mountpoints again and again: a `ToWire`
maps each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from knit_workflows.domain import data, hooks
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.plans import model
from knit_workflows.domain.runs import run as runs
from knit_workflows.domain.runs import timing
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import VolumeOptions
from knit_workflows.wire.base import Wire
from knit_workflows.wire.options import pod_to_wire, volume_to_wire


class ToWire:
    """Maps the domain values of one response: each Plan, Run and mountpoint once.

    Mountpoints are remembered by identity, so its arguments must live as long as it does. Its
    results share parts: they are to be serialized, not changed.
    """

    def __init__(self) -> None:
        self._plan_of: dict[str, Wire] = {}
        self._run_of: dict[str, Wire] = {}
        self._mountpoint_of: dict[int, Wire] = {}

    def _plan_summary(self, plan: model.PlanSummary) -> Wire:
        known = self._plan_of.get(plan.plan_id)
        if known is None:
            known = self._plan_of[plan.plan_id] = _plan_summary(plan)
        return known

    def _mountpoint(self, point: model.Mountpoint) -> Wire:
        known = self._mountpoint_of.get(id(point))
        if known is None:
            known = self._mountpoint_of[id(point)] = _mountpoint(point.path, point.tags)
        return known

    def _run_summary(self, run: runs.RunSummary) -> Wire:
        known = self._run_of.get(run.run_id)
        if known is None:
            known = self._run_of[run.run_id] = {
                "runId": run.run_id,
                "status": run.status.value,
                "updatedAt": _instant(run.updated_at),
                **_present(exit=_exit(run.exit)),
                "plan": self._plan_summary(run.plan),
            }
        return known

    def plan(self, plan: model.PlanDetail) -> Wire:
        """Gives a `wire.plans.Plan`."""
        return {
            **self._plan_summary(plan.summary),
            "inputs": [
                {
                    **self._mountpoint(point.mountpoint),
                    "upstreams": [self._upstream(link) for link in point.links],
                }
                for point in plan.inputs
            ],
            "outputs": [
                {
                    **self._mountpoint(point.mountpoint),
                    **_volume(plan, point.mountpoint.path),
                    "downstreams": self._downstreams(point),
                }
                for point in plan.outputs
            ],
            **_present(
                log=None if plan.log is None else self._log(plan.log, _volume(plan, model.LOG_PATH))
            ),
            "active": plan.active,
            **_filled(
                on_node=_on_node(plan.on_node),
                resources=dict(plan.resources),
                service_account=plan.service_account,
                priority=plan.priority,
            ),
            **_present(pod=pod_to_wire(plan.options.pod)),
        }

    def _log(self, point: model.LinkedMountpoint, volume: Wire) -> Wire:
        tags = _tags(point.mountpoint.tags)
        return {"tags": tags, **volume, "downstreams": self._downstreams(point)}

    def _upstream(self, link: model.PlanLink) -> Wire:
        return {"plan": self._plan_summary(link.plan), **_origin(link.path, link.tags)}

    def _downstreams(self, point: model.LinkedMountpoint) -> list[Wire]:
        # What consumes is always an input, and an input has a path.
        return [
            {
                "plan": self._plan_summary(link.plan),
                "mountpoint": _mountpoint(link.path or "", link.tags),
            }
            for link in point.links
        ]

    def run(self, run: runs.RunDetail) -> Wire:
        """Gives a `wire.runs.Run`."""
        return {
            **self._run_summary(run.summary),
            "inputs": [_assignment(one) for one in run.inputs],
            "outputs": [_assignment(one) for one in run.outputs],
            "log": None
            if run.log is None
            else {"tags": _tags(run.log.tags), "knitId": run.log.knit_id or ""},
            "generation": run.generation,
            **_filled(priority=run.priority),
            **_present(used=_used(run.used), waiting=_waiting(run.waiting)),
            **_filled(notes=list(run.notes)),
        }

    def data(self, one: data.DataDetail) -> Wire:
        """Gives a `wire.data.Data`."""
        adopted = one.adopted_volume
        return {
            "knitId": one.knit_id,
            **({} if adopted is None else {"adopted_volume": adopted}),
            "tags": _tags(one.tags),
            "upstream": {
                **_origin(one.upstream.path, one.upstream.tags),
                "run": self._run_summary(one.upstream.run),
            },
            "downstreams": [
                {"mountpoint": self._mountpoint(use.mountpoint), "run": self._run_summary(use.run)}
                for use in one.downstreams
            ],
            "nomination": [
                {**self._mountpoint(fit.mountpoint), "plan": self._plan_summary(fit.plan)}
                for fit in one.nominations
            ],
        }


def preview_to_wire(preview: model.PlanPreview) -> Wire:
    """Gives a `wire.plans.PlanPreview`."""
    return {
        "runs": preview.runs,
        "inputs": [{"path": path, "data": many} for path, many in preview.candidates.items()],
        "assignments": [dict(one) for one in preview.assignments],
    }


def event_to_wire(event: runs.RunEvent) -> Wire:
    """Gives an `wire.runs.RunEvent`."""
    return {
        "at": _instant(event.at),
        "generation": event.generation,
        **_present(**{"from": event.from_status and event.from_status.value}),
        "to": event.to_status.value,
        "cause": event.cause,
        "actor": event.actor,
        **_present(exit=_exit(event.exit), used=_used(event.used)),
    }


def timing_to_wire(found: timing.Timing) -> Wire:
    """Gives a `wire.runs.RunTiming`."""
    phases = [
        {"phase": one.phase.value, "milliseconds": milliseconds(one.duration)}
        for one in found.phases
    ]
    return {
        "generation": found.generation,
        "status": found.status.value,
        "milliseconds": sum(one["milliseconds"] for one in phases),
        "phases": phases,
    }


def milliseconds(duration: timedelta) -> int:
    """Gives a duration as the wire has it, rounded."""
    return round(duration / timedelta(milliseconds=1))


def hooks_to_wire(found: hooks.HooksInForce) -> Wire:
    """Gives a `wire.deliveries.Hooks`."""
    return {
        "before": list(found.hooks.before),
        "after": list(found.hooks.after),
        "changed_at": _instant(found.changed_at),
        **_filled(source=found.source and asdict(found.source)),
        "followers": [_follower(one) for one in found.followers],
        **_filled(problem=found.problem),
    }


def _follower(one: hooks.HooksFollower) -> Wire:
    return {
        "worker": one.source.worker,
        "file": one.source.file,
        **_filled(digest=one.source.digest, problem=one.problem),
        "since": _instant(one.since),
        "seen_at": _instant(one.seen_at),
    }


def delivery_to_wire(one: hooks.HookDelivery) -> Wire:
    """Gives a `wire.deliveries.HookDelivery`."""
    step = one.transition
    return {
        "id": one.delivery_id,
        "runId": step.run_id,
        "generation": step.generation,
        "from": step.source.value,
        "to": step.target.value,
        "phase": one.phase.value,
        "url": one.url,
        "state": one.state.value,
        "attempts": one.attempts,
        "created_at": _instant(one.created_at),
        "called_at": _instant(one.called_at),
        **_present(next_at=_maybe_instant(one.next_at), status_code=one.status_code),
        **_present(duration_ms=None if one.duration is None else milliseconds(one.duration)),
        **_filled(answer=one.answer, skipped_by=one.skipped_by, skip_reason=one.skip_reason),
    }


def _present(**optional: object) -> Wire:
    """Keeps what is not None."""
    return {name: value for name, value in optional.items() if value is not None}


def _filled(**optional: object) -> Wire:
    """Keeps what is not empty."""
    return {name: value for name, value in optional.items() if value}


def _tags(tags: Iterable[Tag]) -> list[str]:
    return [f"{tag.key}:{tag.value}" for tag in tags]


def _instant(instant: datetime) -> str:
    return format_instant(instant.astimezone(UTC))


def _maybe_instant(instant: datetime | None) -> str | None:
    return None if instant is None else _instant(instant)


def _mountpoint(path: str, tags: Iterable[Tag]) -> Wire:
    return {"path": path, "tags": _tags(tags)}


def _origin(path: str | None, tags: Iterable[Tag]) -> Wire:
    """Gives the output that something came from; without a path it is the log."""
    if path is None:
        return {"log": {"tags": _tags(tags)}}
    return {"mountpoint": _mountpoint(path, tags)}


def _assignment(one: runs.Assignment) -> Wire:
    return {**_mountpoint(one.path, one.tags), "knitId": one.knit_id or ""}


def _volume(plan: model.PlanDetail, path: str) -> Wire:
    return _present(volume=volume_to_wire(plan.options.of_volume(path)))


def _on_node(rules: Iterable[model.NodeRule]) -> Wire:
    by_mode: dict[str, list[str]] = {mode.value: [] for mode in model.NodeMode}
    for rule in rules:
        by_mode[rule.mode.value].append(f"{rule.key}={rule.value}")
    return _filled(**by_mode)


def _exit(ending: runs.Exit | None) -> Wire | None:
    return None if ending is None else {"code": ending.code, "message": ending.message}


def _used(used: runs.Used | None) -> Wire | None:
    if used is None:
        return None
    return {
        "resources": dict(used.resources),
        **_present(
            serviceAccount=used.service_account,
            imageDigest=used.image_digest,
            pod=pod_to_wire(used.options.pod),
            volumes=_volumes(used.options.volumes),
        ),
    }


def _volumes(volumes: Mapping[str, VolumeOptions]) -> Wire | None:
    return _present(**{path: volume_to_wire(one) for path, one in volumes.items()}) or None


def _waiting(waiting: runs.Waiting | None) -> Wire | None:
    if waiting is None:
        return None
    return {
        **_present(place=waiting.position),
        "reason": waiting.reason,
        **_filled(kind=waiting.kind.value, code=waiting.code),
        **_present(since=_maybe_instant(waiting.since), until=_maybe_instant(waiting.until)),
        **_filled(outlook=waiting.outlook),
        **_present(hook=_hook_wait(waiting.hook)),
    }


def _hook_wait(hook: runs.HookWait | None) -> Wire | None:
    if hook is None:
        return None
    return {
        "delivery": hook.delivery_id,
        "url": hook.url,
        "to": hook.target.value,
        "attempts": hook.attempts,
        **_present(next_at=_maybe_instant(hook.next_at)),
    }


def _plan_summary(plan: model.PlanSummary) -> Wire:
    return {
        "planId": plan.plan_id,
        **_present(image=str(plan.image) if plan.image else None),
        **_filled(entrypoint=list(plan.entrypoint), args=list(plan.args)),
        **_present(name=plan.name),
        **_filled(annotations=[str(note) for note in plan.annotations]),
    }
