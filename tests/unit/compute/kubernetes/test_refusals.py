"""What a cluster refuses, in the words of a real one: what passes, what ends, what is said."""

from __future__ import annotations

import json

import pytest

from knit_workflows.compute.base import RunPod, StartFailureKind, Transfer, TransferMode
from knit_workflows.compute.kubernetes.api.refusals import REFUSALS, classify_refusal
from knit_workflows.compute.kubernetes.pods.start_failures import read_warning, start_failure_of_job
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, QuotaExceeded
from knit_workflows.domain.volumes import Mount, Volume

WAITS, FAILS_SOON, FAILS_LATER, NEVER_FAILS = (
    StartFailureKind.UNSCHEDULABLE,
    StartFailureKind.REFUSED,
    StartFailureKind.TRANSIENT,
    StartFailureKind.BACKEND,
)
CREATING = "Error creating: "
RECORDED = [
    (
        'pods "quota-9r4gj" is forbidden: exceeded quota: compute, requested: pods=1, used: '
        "pods=0, limited: pods=0",
        "QuotaExceeded",
        WAITS,
        "the quota compute of the namespace is used up: requested: pods=1, used: pods=0, limited: "
        "pods=0",
    ),
    (
        'persistentvolumeclaims "c1" is forbidden: exceeded quota: compute, requested: '
        "persistentvolumeclaims=1, used: persistentvolumeclaims=0, limited: "
        "persistentvolumeclaims=0",
        "QuotaExceeded",
        WAITS,
        "the quota compute of the namespace is used up: requested: persistentvolumeclaims=1, used: "
        "persistentvolumeclaims=0, limited: persistentvolumeclaims=0",
    ),
    (
        'pods "x" is forbidden: status unknown for quota: compute, resources: limits.cpu,pods',
        "QuotaExceeded",
        WAITS,
        "the cluster has not counted yet what the quota compute of the namespace still admits",
    ),
    (
        'pods "x" is forbidden: insufficient quota to match these scopes: [{PriorityClass In [a]}]',
        "QuotaExceeded",
        WAITS,
        "no quota of the namespace admits it: insufficient quota to match these scopes: "
        "[{PriorityClass In [a]}]",
    ),
    (
        'pods "j1-dnp2h" is forbidden: failed quota: compute: must specify limits.cpu for: nurse',
        "QuotaDemandsLimits",
        FAILS_SOON,
        "by the quota compute of the namespace a pod must specify limits.cpu for: nurse; what "
        "`main` takes is in the Plan's `resources`, what knit's own containers take in "
        "KNIT_COMPUTE__KUBERNETES__PROGRAM_LIMITS",
    ),
    (
        'pods "lr-2fttd" is forbidden: maximum cpu usage per Container is 1, but limit is 2',
        "LimitRange",
        FAILS_SOON,
        "a LimitRange of the namespace forbids it: maximum cpu usage per Container is 1, but limit "
        "is 2",
    ),
    (
        'pods "l" is forbidden: minimum memory usage per Container is 10Mi, but request is 1Mi',
        "LimitRange",
        FAILS_SOON,
        "a LimitRange of the namespace forbids it: minimum memory usage per Container is 10Mi, but "
        "request is 1Mi",
    ),
    (
        'persistentvolumeclaims "c2" is forbidden: maximum storage usage per '
        "PersistentVolumeClaim is 1Gi, but request is 2Gi",
        "LimitRange",
        FAILS_SOON,
        "a LimitRange of the namespace forbids it: maximum storage usage per "
        "PersistentVolumeClaim is 1Gi, but request is 2Gi",
    ),
    (
        'pods "l" is forbidden: cpu max limit to request ratio per Container is 2, but provided '
        "ratio is 4.000000",
        "LimitRange",
        FAILS_SOON,
        "a LimitRange of the namespace forbids it: cpu max limit to request ratio per Container is "
        "2, but provided ratio is 4.000000",
    ),
    (
        'pods "psa-2nfdh" is forbidden: violates PodSecurity "baseline:latest": host namespaces '
        "(hostNetwork=true)",
        "PodSecurity",
        FAILS_SOON,
        "the namespace enforces the Pod Security Standard baseline:latest: host namespaces "
        "(hostNetwork=true)",
    ),
    (
        'pods "sa-" is forbidden: error looking up service account pend-rec/nobody: serviceaccount '
        '"nobody" not found',
        "ServiceAccountMissing",
        FAILS_LATER,
        "there is no service account pend-rec/nobody",
    ),
    (
        'pods "pc-" is forbidden: no PriorityClass with name no-such was found',
        "PriorityClassMissing",
        FAILS_LATER,
        "there is no PriorityClass no-such",
    ),
    (
        'pods "rc-" is forbidden: pod rejected: RuntimeClass "no-such" not found',
        "RuntimeClassMissing",
        FAILS_LATER,
        "there is no RuntimeClass no-such",
    ),
    (
        'pods "x" is forbidden: unable to create new content in namespace ml because it is being '
        "terminated",
        "NamespaceTerminating",
        FAILS_SOON,
        "the namespace ml is being deleted",
    ),
    (
        'admission webhook "validate.kyverno.svc-fail" denied the request: no latest tags',
        "AdmissionDenied",
        FAILS_SOON,
        "the admission rule validate.kyverno.svc-fail denies it: no latest tags",
    ),
    (
        'admission webhook "mute.example" denied the request without explanation',
        "AdmissionDenied",
        FAILS_SOON,
        "the admission rule mute.example denies it",
    ),
    (
        "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'no-gpu' with binding 'all' denied "
        "request: GPUs are for others",
        "AdmissionDenied",
        FAILS_SOON,
        "the admission rule no-gpu denies it: GPUs are for others",
    ),
    (
        'Internal error occurred: failed calling webhook "inject.example": failed to call webhook: '
        'Post "https://inject.mesh.svc:443/": connect: connection refused',
        "WebhookUnreachable",
        NEVER_FAILS,
        "the admission webhook inject.example does not answer: failed to call webhook: Post "
        '"https://inject.mesh.svc:443/": connect: connection refused',
    ),
    (
        'Pod "j-x" is invalid: spec.tolerations[0].key: Invalid value',
        "PodInvalid",
        FAILS_SOON,
        "the cluster does not accept such a pod: spec.tolerations[0].key: Invalid value",
    ),
]


@pytest.mark.parametrize(("sentence", "code", "kind", "words"), RECORDED)
def test_a_refusal_is_told_from_all_others(sentence, code, kind, words):
    known = classify_refusal(sentence)
    assert (known.reason, known.kind, known.message) == (code, kind, words)


@pytest.mark.parametrize(("sentence", "code", "kind", "words"), RECORDED)
def test_a_job_without_a_pod_says_why_however_often(sentence, code, kind, words):
    """From the eleventh similar event on the cluster puts words of its own before it."""
    for prefix in ("", "(combined from similar events): "):
        event = {"reason": "FailedCreate", "message": prefix + CREATING + sentence}
        failure = start_failure_of_job([read_warning(event)])
        assert (failure.reason, failure.kind, failure.message) == (code, kind, words)


def test_every_rule_has_been_seen():
    assert {rule.code for rule in REFUSALS} == {code for _, code, _, _ in RECORDED}


def test_a_refusal_of_no_known_kind_is_waited_for_in_its_own_words():
    event = {"reason": "FailedCreate", "message": "(combined from similar events): no idea"}
    failure = start_failure_of_job([read_warning(event)])
    assert (failure.reason, failure.kind, failure.message) == ("FailedCreate", WAITS, "no idea")
    assert classify_refusal("jobs.batch is forbidden: User x cannot create resource") is None


POD = RunPod(
    name="worker-run-r1",
    run_id="r1",
    generation=1,
    plan_id="p1",
    image="x:1",
    inputs=(Mount("/in", Volume("data-knitid-a", "a")),),
)
VOLUME = Volume("data-knitid-a", "a")
READING = Transfer("knitid-a-read-1", VOLUME, TransferMode.READ, "s3cret")
EXCEEDED = "exceeded quota: q, requested: x=1, used: x=1, limited: x=1"


@pytest.mark.parametrize(
    ("sentence", "error"),
    [
        (EXCEEDED, QuotaExceeded),
        ("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi", None),
        ('violates PodSecurity "restricted:latest": so', None),
        ("error looking up service account ns/a: not found", BackendUnavailable),
        ("User x cannot create resource in API group", None),
    ],
)
async def test_what_passes_is_told_from_what_never_does(api, backend, sentence, error):
    """For each kind of object: a claim, a Job, a transfer pod."""
    wanted = error or BackendRejected
    await backend.create_volume(READING.volume)
    for collection in ("persistentvolumeclaims", "jobs", "pods"):
        api.answers_to[f"POST {collection}"] = (403, f'x "y" is forbidden: {sentence}')
    with pytest.raises(wanted) as claim:
        await backend.create_volume(Volume("data-knitid-another", "another"))
    with pytest.raises(wanted) as job:
        await backend.launch(POD)
    with pytest.raises(wanted) as transfer:
        await backend.open_transfer(READING)
    assert {type(one.value) for one in (claim, job, transfer)} == {wanted}


async def test_a_full_quota_does_not_deny_what_exists(api, backend):
    """Admission comes before the look whether the name is taken: a repeated launch gets 403."""
    await backend.create_volume(VOLUME)
    await backend.launch(POD)
    for collection in ("persistentvolumeclaims", "jobs"):
        api.answers_to[f"POST {collection}"] = (403, f"forbidden: {EXCEEDED}")
    await backend.create_volume(VOLUME)
    await backend.launch(POD)


async def test_whoever_may_not_look_is_told_of_the_refusal(api, backend):
    api.answers_to["POST jobs"] = (403, EXCEEDED)
    api.answers_to["GET jobs/worker-run-r1"] = (403, "cannot get jobs")
    with pytest.raises(QuotaExceeded, match="the quota q of the namespace is used up"):
        await backend.launch(POD)


async def test_a_quota_that_others_change_at_that_moment_is_no_conflict(api, backend):
    """In a burst its count is updated by several requests at once: one of them gets a 409."""
    api.conflict = json.dumps(
        {
            "kind": "Status",
            "code": 409,
            "reason": "Conflict",
            "message": "resourcequotas q: modified",
        }
    )
    with pytest.raises(BackendUnavailable, match="resourcequotas q"):
        await backend.launch(POD)
