"""What a cluster says when it refuses to create an object, as a table; pure.

The API server answers 403 alike to a quota that is used up, which passes, and to a limit that never
will; only its sentence tells them apart. The sentences are those of Kubernetes 1.34, seen on a real
node, and stand in its admission plugins (`resourcequota`, `limitranger`, `podsecurity`,
`serviceaccount`, `priority`, `runtimeclass`, `webhook`) word for word since 1.20 at least.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from knit_workflows.compute.base import StartFailure, StartFailureKind


@dataclass(frozen=True, slots=True)
class RefusalRule:
    """One kind of refusal: the sentence it is known by, and what knit makes of it.

    `words` may name groups of `sentence`. Its deadline is that of `kind`.
    """

    code: str
    kind: StartFailureKind
    sentence: re.Pattern[str]
    words: str


def _rule(code: str, kind: StartFailureKind, sentence: str, words: str) -> RefusalRule:
    return RefusalRule(code, kind, re.compile(sentence, re.DOTALL), words)


QUOTA_EXCEEDED: Final = "QuotaExceeded"

REFUSALS: Final = (
    _rule(
        QUOTA_EXCEEDED,
        StartFailureKind.UNSCHEDULABLE,
        r"exceeded quota: (?P<quota>[^,]+), (?P<figures>requested: .+)",
        "the quota {quota} of the namespace is used up: {figures}",
    ),
    _rule(
        QUOTA_EXCEEDED,
        StartFailureKind.UNSCHEDULABLE,
        r"status unknown for quota: (?P<quota>[^,]+)",
        "the cluster has not counted yet what the quota {quota} of the namespace still admits",
    ),
    _rule(
        QUOTA_EXCEEDED,
        StartFailureKind.UNSCHEDULABLE,
        r"insufficient quota to (?P<what>.+)",
        "no quota of the namespace admits it: insufficient quota to {what}",
    ),
    _rule(
        "QuotaDemandsLimits",
        StartFailureKind.REFUSED,
        r"failed quota: (?P<quota>[^:]+): (?P<demand>must specify .+)",
        "by the quota {quota} of the namespace a pod {demand}; what `main` takes is in the Plan's "
        "`resources`, what knit's own containers take in KNIT_COMPUTE__KUBERNETES__PROGRAM_LIMITS",
    ),
    _rule(
        "LimitRange",
        StartFailureKind.REFUSED,
        r"(?P<limit>(?:maximum|minimum) \S+ usage per .+|\S+ max limit to request ratio per .+)",
        "a LimitRange of the namespace forbids it: {limit}",
    ),
    _rule(
        "PodSecurity",
        StartFailureKind.REFUSED,
        r'violates PodSecurity "(?P<level>[^"]+)": (?P<why>.+)',
        "the namespace enforces the Pod Security Standard {level}: {why}",
    ),
    _rule(
        "ServiceAccountMissing",
        StartFailureKind.TRANSIENT,
        r"service account (?P<account>[^\s:]+)(?:: | was not found)",
        "there is no service account {account}",
    ),
    _rule(
        "PriorityClassMissing",
        StartFailureKind.TRANSIENT,
        r"no PriorityClass with name (?P<name>\S+) was found",
        "there is no PriorityClass {name}",
    ),
    _rule(
        "RuntimeClassMissing",
        StartFailureKind.TRANSIENT,
        r'RuntimeClass "(?P<name>[^"]+)" not found',
        "there is no RuntimeClass {name}",
    ),
    _rule(
        "NamespaceTerminating",
        StartFailureKind.REFUSED,
        r"in namespace (?P<name>\S+) because it is being terminated",
        "the namespace {name} is being deleted",
    ),
    _rule(
        "AdmissionDenied",
        StartFailureKind.REFUSED,
        r'(?:admission webhook|ValidatingAdmissionPolicy) ["\'](?P<name>[^"\']+)["\'] '
        r"(?:with binding \S+ )?denied (?:the )?request(?:: | without explanation)?(?P<why>.*)",
        "the admission rule {name} denies it: {why}",
    ),
    _rule(
        "WebhookUnreachable",
        StartFailureKind.BACKEND,
        r'failed calling webhook "(?P<name>[^"]+)": (?P<why>.+)',
        "the admission webhook {name} does not answer: {why}",
    ),
    _rule(
        "PodInvalid",
        StartFailureKind.REFUSED,
        r'Pod "[^"]*" is invalid: (?P<why>.+)',
        "the cluster does not accept such a pod: {why}",
    ),
)
"""The first whose sentence occurs counts."""


def classify_refusal(message: str) -> StartFailure | None:
    """Gives code, kind and words of a refusal; None if it is of no known kind."""
    for rule in REFUSALS:
        if found := rule.sentence.search(message):
            groups = {name: (text or "").strip() for name, text in found.groupdict().items()}
            words = rule.words.format(**groups)
            return StartFailure(rule.kind, rule.code, words.removesuffix(": ").strip())
    return None
