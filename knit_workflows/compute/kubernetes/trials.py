"""Asks the API server what it would refuse of a run pod, by dry runs (`dryRun=All`).

Validation and admission are carried out, webhooks that support dry runs among them; nothing is
stored. A Job is tried for its own rules, and its pod by itself: quotas, limit ranges, service
accounts, classes and Pod Security are looked at only when the Job controller creates the pod.
"""

from __future__ import annotations

import copy
import uuid
from typing import Final

from knit_workflows.compute.base import RunPod, Trial
from knit_workflows.compute.checks import sentence
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.settings import KubernetesSettings

UNCHECKED: Final = (
    "whether the image can be pulled, a node fits, and the storage class exists and has room, "
    "shows when a Run starts",
)
_LONGEST: Final = 1000
"""Characters of a sentence."""
_FULL: Final = "exceeded quota"
"""In the message of a 403 that may pass: quotas have no reason of their own."""


async def try_launch(pod: RunPod, server: ApiServer, settings: KubernetesSettings) -> Trial:
    """Tries claims, Job and pod; what is wrong with the Job is not told again of its pod."""
    try:
        job = manifests.run_job(pod, settings)
    except BackendRejected as refused:
        return Trial(refusals=(sentence(refused),))
    found = _Found()
    for claim in _claims(pod, settings):
        await found.about("the claim of an output or log", server, "PersistentVolumeClaim", claim)
    if await found.about("the Job", server, "Job", job):
        await found.about("the run pod", server, "Pod", _pod_of(job))
    return Trial(
        tuple(dict.fromkeys(found.refusals)), tuple(dict.fromkeys(found.warnings)), UNCHECKED
    )


class _Found:
    """What the server has said so far."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.warnings: list[str] = []

    async def about(self, what: str, server: ApiServer, kind: str, manifest: JsonObject) -> bool:
        """Tries one object; says whether it would be accepted."""
        try:
            warnings = await server.try_create(kind, manifest)
        except BackendRejected as refused:
            if _FULL in refused.reason:
                self.warnings.append(f"{what} would have to wait: {_short(refused.reason)}")
                return True
            self.refusals.append(f"{what}: {_short(refused.reason)}")
            return False
        self.warnings += (f"{what}: {_short(text)}" for text in warnings)
        return True


def _short(text: str) -> str:
    """Cuts what quotes a whole value of a Plan."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _claims(pod: RunPod, settings: KubernetesSettings) -> list[JsonObject]:
    """Gives the claims that differ in more than their names."""
    volumes = [mount.volume for mount in pod.outputs] + ([pod.log] if pod.log else [])
    claims = [manifests.volume_claim(volume, settings) for volume in volumes]
    return list({str(claim["spec"]): claim for claim in claims}.values())


def _pod_of(job: JsonObject) -> JsonObject:
    """Gives the pod that the Job controller would create."""
    pod: JsonObject = copy.deepcopy(job["spec"]["template"])
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
    return pod
