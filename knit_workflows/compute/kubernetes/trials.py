"""Asks the API server what it would refuse of a run pod, by dry runs (`dryRun=All`).

Validation and admission are carried out, webhooks that support dry runs among them; nothing is
stored. A Job is tried for its own rules, and its pod by itself: quotas, limit ranges, service
accounts, classes and Pod Security are looked at only when the Job controller creates the pod. No
dry run looks at the StorageClass of a claim, so that is looked up.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence
from typing import Final

from knit_workflows.compute.base import RunPod, Trial
from knit_workflows.compute.checks import sentence
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.compute.kubernetes.storage_classes import (
    CLASSES_UNSEEN,
    judge_class,
    storage_class,
)
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.volumes import VolumeOptions
from knit_workflows.settings import KubernetesSettings

CLAIM: Final = "the claim of an output or log"
UNCHECKED: Final = (
    "whether the image can be pulled, a node fits, and the storage has room, shows when a Run "
    "starts",
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
    claims = _claims(pod, settings)
    for claim in claims:
        await found.about(CLAIM, server, "PersistentVolumeClaim", claim)
    await found.about_classes(server, [manifests.wanted_of(claim) for claim in claims])
    if await found.about("the Job", server, "Job", job):
        await found.about("the run pod", server, "Pod", _pod_of(job))
    return Trial(
        tuple(dict.fromkeys(found.refusals)),
        tuple(dict.fromkeys(found.warnings)),
        (*dict.fromkeys(found.unchecked), *UNCHECKED),
    )


class _Found:
    """What the server has said so far."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.warnings: list[str] = []
        self.unchecked: list[str] = []

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

    async def about_classes(self, server: ApiServer, wanted: Sequence[VolumeOptions]) -> None:
        """Looks the classes of claims up, if knit may."""
        try:
            for name in dict.fromkeys(one.storage_class for one in wanted):
                there = await storage_class(server, name)
                modes = {one.access_mode for one in wanted if one.storage_class == name}
                refusal, warning = judge_class(name, there, modes)
                self.refusals += (f"{CLAIM}: {text}" for text in refusal)
                self.warnings += (f"{CLAIM}: {text}" for text in warning)
        except BackendRejected:
            self.unchecked.append(CLASSES_UNSEEN)


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
