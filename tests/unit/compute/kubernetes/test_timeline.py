"""When a pod reached its milestones, from what Kubernetes states in whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from knit_workflows.compute.kubernetes.pods.timeline import (
    pull_is_unknown,
    remember,
    timeline_of,
    with_pull,
)
from knit_workflows.domain.runs.milestones import Milestone

M = Milestone
SECOND = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def iso(seconds: float) -> str:
    return (SECOND + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(conditions: dict[str, float], **containers: dict) -> dict:
    return {
        "metadata": {"uid": "u"},
        "spec": {"containers": [{"name": "main"}, {"name": "nurse"}]},
        "status": {
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": iso(at)}
                for kind, at in conditions.items()
            ],
            "containerStatuses": [{"name": n, "state": s} for n, s in containers.items()],
        },
    }


def ended(begun: float, at: float) -> dict:
    return {"terminated": {"exitCode": 0, "startedAt": iso(begun), "finishedAt": iso(at)}}


def seconds(thing: dict) -> dict[Milestone, float]:
    return {m: (at - SECOND).total_seconds() for m, at in timeline_of(thing).items()}


def test_a_pod_that_nobody_watched_has_what_kubernetes_states() -> None:
    thing = pod({"PodScheduled": 1, "Initialized": 3}, main=ended(4, 6), nurse=ended(3, 7))
    assert seconds(thing) == {
        M.SCHEDULED: 1,
        M.INITIALIZED: 3,
        M.STARTED: 4,
        M.ENDED: 6,
        M.LOGGED: 7,
    }


def test_its_log_is_complete_only_when_all_containers_have_ended() -> None:
    thing = pod({}, main=ended(4, 6), nurse={"running": {"startedAt": iso(3)}})
    assert seconds(thing) == {M.STARTED: 4, M.ENDED: 6}
    assert seconds(pod({}, main=ended(4, 6))) == {M.STARTED: 4, M.ENDED: 6}


def test_a_container_that_never_started_has_no_instants() -> None:
    never = {"terminated": {"exitCode": 128, "startedAt": "1970-01-01T00:00:00Z"}}
    assert seconds(pod({}, main=never)) == {}


@pytest.mark.parametrize(
    ("arrival", "expected"),
    [(1.25, 1.25), (0.4, 1), (2.6, 1.999), (9, 1)],
    ids=["in its second", "the node's clock is ahead", "late", "not watched then"],
)
def test_what_is_seen_at_once_is_known_more_exactly(arrival: float, expected: float) -> None:
    thing = pod({"PodScheduled": 1})
    remember(thing, None, SECOND + timedelta(seconds=arrival))
    assert seconds(thing)[M.SCHEDULED] == expected


def test_what_was_seen_first_stays_also_when_kubernetes_forgets_it() -> None:
    """The sandbox of an ended pod is not ready any more."""
    early = pod({"PodReadyToStartContainers": 1})
    remember(early, None, SECOND + timedelta(seconds=1.5))
    late = pod({"Initialized": 2}, main=ended(3, 8), nurse=ended(3, 8))
    remember(late, early, SECOND + timedelta(seconds=8.25))
    assert seconds(late) == {
        M.SANDBOX_READY: 1.5, M.INITIALIZED: 2, M.STARTED: 3, M.ENDED: 8.25, M.LOGGED: 8.25,
    }  # fmt: skip


def pulled(message: str, container: str = "main") -> dict:
    about = {"fieldPath": f"spec.containers{{{container}}}"}
    return {"reason": "Pulled", "involvedObject": about, "message": message}


@pytest.mark.parametrize(
    ("message", "took"),
    [
        (
            'Successfully pulled image "a" in 403ms (2.1s including waiting). Image size: 7 bytes.',
            2.1,
        ),
        ('Successfully pulled image "a" in 1m2.5s (1m2.5s including waiting).', 62.5),
        ('Successfully pulled image "a" in 403ms (403ms including waiting).', 0.403),
        ('Container image "a" already present on machine', 0),
    ],
)
def test_a_long_start_is_explained_by_the_pull(message: str, took: float) -> None:
    thing = pod({"Initialized": 1}, main=ended(90, 91))
    found = timeline_of(thing)
    assert pull_is_unknown(found)
    events = [pulled("Container image present", "nurse"), pulled(message)]
    explained = with_pull(found, events)
    assert (explained[M.PULLED] - found[M.INITIALIZED]).total_seconds() == took
    assert not pull_is_unknown(explained)


def test_a_short_start_needs_no_explanation() -> None:
    assert not pull_is_unknown(timeline_of(pod({"Initialized": 1}, main=ended(2, 3))))
    assert not pull_is_unknown(timeline_of(pod({}, main=ended(2, 3))))
