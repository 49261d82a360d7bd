"""What is asked of the cluster for the token of a log reader; pure functions."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.compute.kubernetes.specs.run_containers import (
    TOKEN_FILE,
    is_supervised,
    log_token_secret,
)
from knit_workflows.settings import KubernetesSettings

LIFETIME: Final = timedelta(days=30)
"""From the launch on, and a pod may wait long for a node. Some clusters give less
(`--service-account-max-token-expiration`). A Run that takes longer has the rest of its log only as
long as the API server keeps the connection open.
"""


def is_needed(pod: RunPod, settings: KubernetesSettings) -> bool:
    """Says whether the pod's log is read from the API, and its account is that of its Plan."""
    return (
        pod.log is not None and pod.service_account is not None and not is_supervised(pod, settings)
    )


def anchor(pod: RunPod, job: JsonObject, settings: KubernetesSettings) -> JsonObject:
    """Gives the Secret to which the token is bound: it is empty, and goes with the Job."""
    return _owned(f"{pod.name}-log", pod, job, settings)


def token_request(pod: RunPod) -> JsonObject:
    """Gives the request for a token that is valid as long as the anchor exists.

    Without an audience it is for the API server, and for nobody else.
    """
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": int(LIFETIME.total_seconds()),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": f"{pod.name}-log"},
        },
    }


def secret(pod: RunPod, job: JsonObject, token: str, settings: KubernetesSettings) -> JsonObject:
    """Gives the Secret with the token, for which the pod waits."""
    made = _owned(log_token_secret(pod), pod, job, settings)
    return made | {"immutable": True, "stringData": {TOKEN_FILE: token}}


def _owned(name: str, pod: RunPod, job: JsonObject, settings: KubernetesSettings) -> JsonObject:
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": pod.name,
        "uid": job["metadata"]["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": manifests.run_pod_labels(pod, settings),
            "ownerReferences": [owner],
        },
    }
