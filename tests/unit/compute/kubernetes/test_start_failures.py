"""Which start failures are transient, which are not, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from knit_workflows.compute.base import StartFailureKind
from knit_workflows.compute.kubernetes.api.refusals import REFUSALS
from knit_workflows.compute.kubernetes.pods.start_failures import (
    WarningEvent,
    read_warning,
    start_failure_of_pod,
)
from knit_workflows.compute.kubernetes.pods.waits import CODES, WAITS

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


def test_a_scheduler_without_words_is_told_all_the_same():
    failure = start_failure_of_pod(pod(PodScheduled=("False", "", "")), [], NOW)
    assert (failure.reason, failure.message) == ("Unschedulable", "no node takes the pod")


def test_a_claim_being_provisioned_is_no_failure_for_a_while():
    words = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    condition = ("False", "Unschedulable", words)
    assert kind_of(pod(PodScheduled=condition)) is None
    assert kind_of(pod(PodScheduled=condition, age=120)) is UNSCHEDULABLE


@pytest.mark.parametrize("reason", ["FailedMount", "FailedCreatePodSandBox", "FailedAttachVolume"])
def test_mounts_and_sandboxes_that_fail_may_recover(reason):
    """A kubelet that has told of a pod many times tells of it once in five minutes only."""
    scheduled = pod(reason="ContainerCreating", PodScheduled=("True", "", ""))
    assert kind_of(scheduled, WarningEvent(reason, "why", NOW)) is TRANSIENT
    assert kind_of(scheduled, WarningEvent(reason, "why", NOW - timedelta(minutes=6))) is TRANSIENT
    assert kind_of(scheduled, WarningEvent(reason, "why", NOW - timedelta(minutes=12))) is None
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
    assert read_warning(event) == WarningEvent("FailedMount", "why", NOW, about="/")
    event["series"] = {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}
    assert read_warning(event).seen == NOW + timedelta(minutes=1)
    assert read_warning({}).seen is None


CLAIM_TOLD = WarningEvent(
    "ProvisioningFailed",
    'storageclass.storage.k8s.io "nope" not found',
    NOW,
    about="PersistentVolumeClaim/data-knitid-a",
)


@pytest.mark.parametrize("how", ["not found", "is being deleted"])
def test_a_claim_that_was_deleted_is_waited_for_until_the_deadline(how):
    """It does not come back by itself."""
    words = f'0/1 nodes are available: persistentvolumeclaim "data-knitid-x" {how}. preemption: 0/1'
    failure = start_failure_of_pod(pod(PodScheduled=("False", "Unschedulable", words)), [], NOW)
    assert (failure.kind, failure.reason) == (TRANSIENT, "ClaimGone")
    assert failure.message.startswith("its claim data-knitid-x is gone")
    assert words in failure.message


UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


@pytest.mark.parametrize("condition", [{}, {"PodScheduled": ("False", "Unschedulable", UNBOUND)}])
def test_a_claim_that_cannot_be_provisioned_is_told_at_once(condition):
    """Though its pod says nothing yet, or only that it is not bound, as is normal for a while."""
    failure = start_failure_of_pod(pod(**condition), [CLAIM_TOLD], NOW)
    assert (failure.kind, failure.reason) == (UNSCHEDULABLE, "ProvisioningFailed")
    assert failure.message == f"its claim data-knitid-a: {CLAIM_TOLD.message}"


def test_what_a_claim_has_said_is_not_repeated_when_its_pod_waits_for_something_else():
    words = "0/1 nodes are available: 1 Insufficient cpu."
    busy = pod(PodScheduled=("False", "Unschedulable", words))
    assert start_failure_of_pod(busy, [CLAIM_TOLD], NOW).message == words
    scheduled = pod(reason="ContainerCreating", PodScheduled=("True", "", ""))
    assert start_failure_of_pod(scheduled, [CLAIM_TOLD], NOW) is None
    assert start_failure_of_pod(pod(), [CLAIM_TOLD], NOW + timedelta(hours=1)) is None


def test_the_words_of_the_scheduler_count_whatever_its_reason():
    words = 'running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded'
    failure = start_failure_of_pod(pod(PodScheduled=("False", "SchedulerError", words)), [], NOW)
    assert (failure.kind, failure.reason) == (UNSCHEDULABLE, "SchedulerError")
    assert failure.message == words


def with_sidecar(state: dict, **more: object) -> dict:
    thing = pod(
        reason="PodInitializing",
        PodScheduled=("True", "", ""),
        PodReadyToStartContainers=("True", "", ""),
    )
    thing["status"]["initContainerStatuses"] = [{"name": "proxy", "state": state, **more}]
    return thing


def test_a_sidecar_that_ends_again_and_again_is_told():
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}}
    last = {"terminated": {"exitCode": 3, "reason": "Error", "message": "no certificate"}}
    failure = start_failure_of_pod(with_sidecar(waiting, lastState=last), [], NOW)
    assert (failure.kind, failure.reason) == (TRANSIENT, "CrashLoopBackOff")
    assert failure.message == (
        "(container proxy) back-off 10s restarting; it ended last with 3: no certificate"
    )


def test_a_sidecar_that_does_not_start_is_told_by_its_probe():
    event = {
        "reason": "Unhealthy",
        "message": "Startup probe failed: connection refused",
        "lastTimestamp": "2026-01-02T03:04:05Z",
        "involvedObject": {
            "kind": "Pod",
            "name": "p",
            "fieldPath": "spec.initContainers{proxy}",
        },
    }
    unwell = read_warning(event)
    failure = start_failure_of_pod(with_sidecar({"running": {}}, started=False), [unwell], NOW)
    assert (failure.kind, failure.reason) == (TRANSIENT, "SidecarNotStarted")
    assert "(container proxy)" in failure.message
    assert "Startup probe failed: connection refused" in failure.message
    started = with_sidecar({"running": {}}, started=True)
    assert start_failure_of_pod(started, [unwell], NOW) is None


def test_the_eleventh_similar_event_says_what_the_first_said():
    words = "(combined from similar events): MountVolume.SetUp failed"
    assert read_warning({"message": words}).message == "MountVolume.SetUp failed"


def test_each_code_of_the_table_is_of_one_source():
    """A refusal that became a way of waiting of another kind would have two deadlines."""
    assert not set(WAITS) & {rule.code for rule in REFUSALS}
    assert set(CODES) == set(WAITS) | {rule.code for rule in REFUSALS}
