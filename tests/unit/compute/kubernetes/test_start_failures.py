"""Which start failures are transient, which are not, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from knit_workflows.compute.base import StartFailureKind
from knit_workflows.compute.kubernetes.start_failures import (
    WarningEvent,
    read_warning,
    start_failure_of_pod,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IMAGE, TRANSIENT, UNSCHEDULABLE = (
    StartFailureKind.IMAGE,
    StartFailureKind.TRANSIENT,
    StartFailureKind.UNSCHEDULABLE,
)


def pod(*, reason: str | None = None, message: str = "", age: float = 10, **conditions: tuple):
    waiting = {"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}
    created = NOW - timedelta(seconds=age)
    return {
        "metadata": {"name": "p", "creationTimestamp": created.isoformat()},
        "status": {
            "containerStatuses": [waiting] if reason else [],
            "conditions": [
                {"type": kind, "status": status, "reason": why, "message": text}
                for kind, (status, why, text) in conditions.items()
            ],
        },
    }


def kind_of(thing: dict, *warnings: WarningEvent) -> StartFailureKind | None:
    failure = start_failure_of_pod(thing, warnings, NOW)
    return failure and failure.kind


PULLS = [
    (
        IMAGE,
        "ErrImagePull",
        'rpc error: code = NotFound desc = failed to pull and unpack image "localhost:5000/a:1": '
        'failed to resolve reference "localhost:5000/a:1": localhost:5000/a:1: not found',
    ),
    (
        IMAGE,
        "ErrImagePull",
        'failed to pull and unpack image "docker.io/x/y:1": failed to resolve reference '
        '"docker.io/x/y:1": pull access denied, repository does not exist or may require '
        "authorization: server message: insufficient_scope: authorization failed",
    ),
    (IMAGE, "ErrImagePull", "no match for platform in manifest: not found"),
    (IMAGE, "ErrImagePull", "something nobody has seen yet"),
    (
        IMAGE,
        "ImagePullBackOff",
        'Back-off pulling image "a:timeout": ErrImagePull: manifest unknown',
    ),
    (
        IMAGE,
        "InvalidImageName",
        'Failed to apply default image tag "A:b": invalid reference format',
    ),
    (IMAGE, "ErrImageNeverPull", 'Container image "x" is not present with pull policy of Never'),
    (
        TRANSIENT,
        "ErrImagePull",
        'failed to do request: Head "https://localhost:5000/v2/notfound/manifests/1": '
        "dial tcp 127.0.0.1:5000: connect: connection refused",
    ),
    (
        TRANSIENT,
        "ErrImagePull",
        "failed to resolve reference: unexpected status from HEAD request to "
        "https://reg.example/v2/denied/manifests/1: 503 Service Unavailable",
    ),
    (TRANSIENT, "ErrImagePull", "dial tcp: lookup reg.example on 10.0.0.2:53: i/o timeout"),
    (TRANSIENT, "ErrImagePull", "toomanyrequests: You have reached your unauthenticated limit"),
    (TRANSIENT, "ErrImagePull", "rpc error: code = DeadlineExceeded desc = context canceled"),
    (TRANSIENT, "ErrImagePull", "pull QPS exceeded"),
    (TRANSIENT, "RegistryUnavailable", "image pull failed for x, as registry is unavailable"),
]


@pytest.mark.parametrize(("kind", "reason", "message"), PULLS)
def test_an_image_that_cannot_be_had_is_told_from_a_network_that_fails(kind, reason, message):
    assert kind_of(pod(reason=reason, message=message)) is kind


def test_the_event_has_the_cause_that_an_old_kubelet_does_not_repeat():
    backing_off = pod(reason="ImagePullBackOff", message='Back-off pulling image "a:1"')
    refused = WarningEvent("Failed", 'Failed to pull image "a:1": connection refused', NOW)
    assert kind_of(backing_off, refused) is TRANSIENT
    assert kind_of(backing_off) is IMAGE


def test_a_start_failure_names_its_container():
    failure = start_failure_of_pod(pod(reason="InvalidImageName", message="so"), [], NOW)
    assert failure.reason == "InvalidImageName"
    assert failure.message == "(container main) so"


@pytest.mark.parametrize(
    ("kind", "reason", "message"),
    [
        (
            IMAGE,
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root (pod: …)",
        ),
        (TRANSIENT, "CreateContainerConfigError", 'secret "token" not found'),
        (IMAGE, "CreateContainerError", "no command specified"),
        (TRANSIENT, "CreateContainerError", "context deadline exceeded"),
        (None, "ContainerCreating", ""),
        (None, "PodInitializing", ""),
    ],
)
def test_containers_that_cannot_be_created(kind, reason, message):
    assert kind_of(pod(reason=reason, message=message)) is kind


def test_no_room():
    words = "0/1 nodes are available: 1 Insufficient cpu."
    thing = pod(PodScheduled=("False", "Unschedulable", words))
    failure = start_failure_of_pod(thing, [], NOW)
    assert failure.kind is UNSCHEDULABLE
    assert failure.message == words


def test_a_claim_being_provisioned_is_no_failure_for_a_while():
    words = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    condition = ("False", "Unschedulable", words)
    assert kind_of(pod(PodScheduled=condition)) is None
    assert kind_of(pod(PodScheduled=condition, age=120)) is UNSCHEDULABLE


@pytest.mark.parametrize("reason", ["FailedMount", "FailedCreatePodSandBox", "FailedAttachVolume"])
def test_mounts_and_sandboxes_that_fail_may_recover(reason):
    scheduled = pod(reason="ContainerCreating", PodScheduled=("True", "", ""))
    assert kind_of(scheduled, WarningEvent(reason, "why", NOW)) is TRANSIENT
    assert kind_of(scheduled, WarningEvent(reason, "why", NOW - timedelta(minutes=10))) is None
    started = pod(reason="ContainerCreating", PodReadyToStartContainers=("True", "", ""))
    assert kind_of(started, WarningEvent(reason, "why", NOW)) is None


@pytest.mark.parametrize("reason", ["MissingClusterDNS", "DNSConfigForming", "FailedScheduling"])
def test_harmless_warnings_are_no_failure(reason):
    assert kind_of(pod(reason="ContainerCreating"), WarningEvent(reason, "why", NOW)) is None


def test_the_newest_instant_of_an_event_counts():
    event = {
        "reason": "FailedMount",
        "message": "why\n",
        "firstTimestamp": "2026-01-02T03:00:00Z",
        "lastTimestamp": "2026-01-02T03:04:05Z",
        "eventTime": None,
    }
    assert read_warning(event) == WarningEvent("FailedMount", "why", NOW)
    event["series"] = {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}
    assert read_warning(event).seen == NOW + timedelta(minutes=1)
    assert read_warning({}).seen is None
