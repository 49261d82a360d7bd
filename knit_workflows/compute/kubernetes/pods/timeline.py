"""When a pod reached its milestones; pure.

Kubernetes states instants in whole seconds. A worker that watches a pod learns of each milestone
within the same second as a rule, so the instant at which it learnt is used as far as the stated one
allows: the result lies within the stated second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from knit_workflows.compute.kubernetes.api.objects import JsonObject, condition, instant
from knit_workflows.compute.kubernetes.specs.run_containers import MAIN
from knit_workflows.domain.runs.milestones import Milestone, Timeline
from knit_workflows.wire.times import parse_duration

_SEEN: Final = "milestones"
"""The key, in a pod that is kept, of the milestones that were seen; no field of Kubernetes."""

_CONDITIONS: Final = {
    Milestone.SCHEDULED: "PodScheduled",
    Milestone.SANDBOX_READY: "PodReadyToStartContainers",
    Milestone.INITIALIZED: "Initialized",
}
_WITHIN_SECOND: Final = timedelta(milliseconds=999)
_LATEST: Final = timedelta(seconds=3)
"""A worker that learns of a milestone later than this was not watching."""
_LONG_START: Final = timedelta(seconds=1)
_PULLED: Final = re.compile(r"\((\S+) including waiting")
"""How long a pull has taken, as Go writes durations; the kubelet's words since Kubernetes 1.28."""


def timeline_of(pod: JsonObject) -> Timeline:
    """Gives the milestones of a pod: as they were seen, else as Kubernetes states them."""
    seen: Timeline = pod.get(_SEEN) or {}
    return {**_stated(pod), **seen}


def remember(pod: JsonObject, before: JsonObject | None, at: datetime) -> None:
    """Notes in a pod, seen at this instant, the milestones that it has reached.

    `before` is the same pod as it was kept so far. What it knows stays: Kubernetes forgets some of
    it when the pod ends.
    """
    known: Timeline = before.get(_SEEN, {}) if before is not None else {}
    pod[_SEEN] = {
        milestone: _refined(stated, at) for milestone, stated in _stated(pod).items()
    } | dict(known)


def pull_is_unknown(timeline: Timeline) -> bool:
    """Says whether a pull may explain why the container took long to start."""
    begun, started = timeline.get(Milestone.INITIALIZED), timeline.get(Milestone.STARTED)
    if begun is None or started is None or Milestone.PULLED in timeline:
        return False
    return started - begun > _LONG_START


def with_pull(timeline: Timeline, events: Sequence[JsonObject]) -> Timeline:
    """Adds when the image of the user's container was there, from the events of its pod."""
    path = f"spec.containers{{{MAIN}}}"
    for event in events:
        if event.get("reason") != "Pulled" or event["involvedObject"].get("fieldPath") != path:
            continue
        found = _PULLED.search(event.get("message") or "")
        took = parse_duration(found[1]) if found else timedelta()  # it was there already
        return {**timeline, Milestone.PULLED: timeline[Milestone.INITIALIZED] + took}
    return timeline


def _stated(pod: JsonObject) -> dict[Milestone, datetime]:
    stated: dict[Milestone, datetime] = {}

    def add(milestone: Milestone, text: str | None) -> None:
        at = instant(text)
        if at is not None and at.year > 1970:  # a container that never started "ended" in 1970
            stated[milestone] = at

    for milestone, kind in _CONDITIONS.items():
        found = condition(pod, kind)
        if found is not None and found.get("status") == "True":
            add(milestone, found.get("lastTransitionTime"))
    containers = pod.get("status", {}).get("containerStatuses") or []
    states = {one["name"]: one.get("state") or {} for one in containers}
    main = states.get(MAIN, {})
    ended = main.get("terminated") or {}
    add(Milestone.STARTED, (main.get("running") or ended).get("startedAt"))
    add(Milestone.ENDED, ended.get("finishedAt"))
    wanted = {one["name"] for one in pod["spec"]["containers"]}
    ends = [
        one["terminated"].get("finishedAt") or "" for one in states.values() if "terminated" in one
    ]
    if ends and len(ends) == len(wanted):
        add(Milestone.LOGGED, max(ends) or None)
    return stated


def _refined(stated: datetime, seen: datetime) -> datetime:
    """Gives the instant within the stated second that is nearest to when it was seen."""
    if seen - stated > _LATEST:
        return stated
    return min(max(seen, stated), stated + _WITHIN_SECOND)
