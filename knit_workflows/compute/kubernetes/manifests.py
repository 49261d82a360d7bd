"""Manifests of what knit creates in a cluster; pure functions.

Names, labels and container names are Knitfab's, so that operators' tools keep working.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from typing import Final

from knit_workflows import names
from knit_workflows.compute.base import RunPod, Transfer, TransferMode
from knit_workflows.compute.kubernetes.adopted_claims import refuse_change
from knit_workflows.compute.kubernetes.objects import JsonObject
from knit_workflows.compute.kubernetes.options import with_options
from knit_workflows.compute.kubernetes.placement import placement
from knit_workflows.compute.kubernetes.security import (
    knit_container_context,
    pod_context,
    user_container_context,
)
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.plans.model import LOG_PATH
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import KubernetesSettings

MAIN: Final = "main"
LOG_SIDECAR: Final = "nurse"
CHECK: Final = "init-main"
AGENT: Final = "dataagt"

LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
"""On Jobs, their pods, claims and transfer pods: the name that knit computed."""

AGENT_FOLDER: Final = "/data"
OUTPUTS_FOLDER: Final = "/outputs"
"""Where the log sidecar mounts the outputs, each at its path below this folder."""
TOKEN_KEY: Final = "token"
_TOKEN_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_VOLUME: Final = "serviceaccount"


@cache
def _own_version() -> str:
    try:
        return f"v{metadata.version('knit')}"
    except metadata.PackageNotFoundError:  # run from a source folder
        return "v0"


def labels(kind: str, instance: str, settings: KubernetesSettings) -> dict[str, str]:
    """Gives the recommended labels of a `worker`, `data` or `dataagt` object."""
    return {
        "app.kubernetes.io/version": settings.version or _own_version(),
        "app.kubernetes.io/name": kind,
        LABEL_INSTANCE: instance,
        "app.kubernetes.io/component": kind,
        "app.kubernetes.io/part-of": "knit",
        "app.kubernetes.io/managed-by": "knit",
    }


def run_pod_labels(pod: RunPod, settings: KubernetesSettings) -> dict[str, str]:
    """Gives the labels of a Job and of its pods: Run, Plan and generation."""
    return labels("worker", pod.name, settings) | {
        names.LABEL_RUN: pod.run_id,
        names.LABEL_RUN_ALIAS: pod.run_id,
        names.LABEL_PLAN: pod.plan_id,
        names.LABEL_GENERATION: str(pod.generation),
    }


def volume_claim(volume: Volume, settings: KubernetesSettings) -> JsonObject:
    """Gives the claim of a volume, as its Plan or else the installation says."""
    wanted = volume.options
    spec: JsonObject = {
        "accessModes": [wanted.access_mode or settings.access_mode],
        "resources": {"requests": {"storage": wanted.size or settings.initial_capacity}},
    }
    if storage_class := wanted.storage_class or settings.storage_class:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": volume.name,
            "labels": labels("data", volume.name, settings) | {names.LABEL_KNIT_ID: volume.knit_id},
        },
        "spec": spec,
    }


def run_job(pod: RunPod, settings: KubernetesSettings) -> JsonObject:
    """Gives the Job that runs a pod exactly once, also if it fails.

    Raises:
        BackendRejected: two outputs share a volume, or one has a claim of others; or the Plan has
            an option that is not allowed here.
    """
    _check_outputs(pod)
    own_labels = run_pod_labels(pod, settings)
    job: JsonObject = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": pod.name, "labels": own_labels},
        "spec": {
            "parallelism": 1,
            "backoffLimit": 0,
            # With labels, so that one watch selects all run pods of knit and nothing else.
            "template": {"metadata": {"labels": own_labels}, "spec": _pod_spec(pod, settings)},
        },
    }
    return with_options(job, pod, settings)


def _check_outputs(pod: RunPod) -> None:
    written = [mount.volume.knit_id for mount in _writable(pod)]
    twice = {knit_id for knit_id in written if written.count(knit_id) > 1}
    if twice:
        raise BackendRejected(f"two outputs share one Data: {', '.join(sorted(twice))}")
    for mount in _writable(pod):
        refuse_change(mount.volume)


def _writable(pod: RunPod) -> list[Mount]:
    log = [Mount(LOG_PATH, pod.log)] if pod.log is not None else []
    return [*pod.outputs, *log]


def _pod_spec(pod: RunPod, settings: KubernetesSettings) -> JsonObject:
    spec: JsonObject = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": pod.service_account is not None,
        "securityContext": pod_context(settings),
        "containers": [_main(pod)],
        "volumes": _volumes(pod, settings),
        **placement(pod.on_node),
    }
    if pod.service_account is not None:
        spec["serviceAccountName"] = pod.service_account
    if writable := _writable(pod):
        spec["initContainers"] = [_check_empty(writable, settings)]
    if pod.log is not None:
        spec["containers"].append(_log_sidecar(pod.log, pod.outputs, settings))
    return spec


def _pull_secrets(settings: KubernetesSettings) -> JsonObject:
    names = settings.image_pull_secrets
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def _volumes(pod: RunPod, settings: KubernetesSettings) -> list[JsonObject]:
    mounted = {mount.volume.knit_id: mount.volume for mount in (*pod.inputs, *_writable(pod))}
    volumes = [_claimed(knit_id, volume) for knit_id, volume in mounted.items()]
    if pod.log is not None:
        volumes.append({"name": _TOKEN_VOLUME, "secret": {"secretName": settings.log_secret}})
    return volumes


def _claimed(name: str, volume: Volume) -> JsonObject:
    claim: JsonObject = {"claimName": volume.name}
    if not names.is_own_volume(volume.name):
        # An adopted claim. Mounted read-only as a whole, so that the kubelet does not change the
        # group of its files either, as it does for fsGroup.
        claim["readOnly"] = True
    return {"name": name, "persistentVolumeClaim": claim}


def _main(pod: RunPod) -> JsonObject:
    container: JsonObject = {
        "name": MAIN,
        "image": pod.image,
        "securityContext": user_container_context(),
        "volumeMounts": [
            *_mounts(pod.inputs, read_only=True),
            *_mounts(pod.outputs, read_only=False),
        ],
    }
    if pod.entrypoint:
        container["command"] = [_literal(word) for word in pod.entrypoint]
    if pod.args:
        container["args"] = [_literal(word) for word in pod.args]
    if pod.env:
        container["env"] = [
            {"name": name, "value": _literal(value)} for name, value in pod.env.items()
        ]
    if pod.resources:
        container["resources"] = {
            "limits": dict(pod.resources),
            "requests": dict(pod.resources),
        }
    return container


def _literal(word: str) -> str:
    """Escapes a word for the kubelet, which expands $(NAME) and turns $$ into $."""
    return word.replace("$", "$$")


def _mounts(mounts: Iterable[Mount], *, read_only: bool) -> list[JsonObject]:
    # Read-only per mount, not per claim: another pod of knit may mount the same claim read-write.
    return [
        {"name": mount.volume.knit_id, "mountPath": mount.path, "readOnly": read_only}
        for mount in mounts
    ]


def _check_empty(writable: Sequence[Mount], settings: KubernetesSettings) -> JsonObject:
    """Gives the init container that fails unless outputs and log are empty.

    One container for both (Knitfab has another, `init-log`): init containers run one after another,
    and the kubelet takes about a second to notice the end of each.
    """
    return _knit_container(CHECK, "check_empty", settings) | {
        "args": [mount.path for mount in writable],
        "volumeMounts": _mounts(writable, read_only=True),
    }


def _log_sidecar(log: Volume, outputs: Sequence[Mount], settings: KubernetesSettings) -> JsonObject:
    """Gives the sidecar that writes the log of `main` to its volume, with its own service account.

    Afterwards it scans the outputs. They are mounted below a separate folder, since the path of one
    may exist in its image.
    """
    seen = [Mount(f"{OUTPUTS_FOLDER}{mount.path}", mount.volume) for mount in outputs]
    folders = {mount.path: f"{OUTPUTS_FOLDER}{mount.path}" for mount in outputs}
    return _knit_container(LOG_SIDECAR, "log_sidecar", settings) | {
        "args": [MAIN, f"{LOG_PATH}/log"],
        "env": [
            _from_field("POD_NAME", "metadata.name"),
            _from_field("NAMESPACE", "metadata.namespace"),
            {"name": "OUTPUTS", "value": _literal(json.dumps(folders))},
        ],
        "volumeMounts": [
            *_mounts([Mount(LOG_PATH, log)], read_only=False),
            *_mounts(seen, read_only=True),
            {"name": _TOKEN_VOLUME, "mountPath": _TOKEN_FOLDER, "readOnly": True},
        ],
    }


def _from_field(name: str, path: str) -> JsonObject:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _knit_container(name: str, program: str, settings: KubernetesSettings) -> JsonObject:
    container: JsonObject = {
        "name": name,
        "image": settings.pod_image,
        "command": ["python3", "-m", f"knit_workflows.pod.{program}"],
        "securityContext": knit_container_context(settings),
        # No CPU limit: Knitfab's 50m would make Python's start take over 1 s instead of 0.1 s.
        "resources": {
            "requests": {"cpu": "50m", "memory": "100Mi"},
            "limits": {"memory": "100Mi"},
        },
        # The last output before a failure becomes the message of the Run's exit.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if settings.pod_image_pull_policy is not None:
        container["imagePullPolicy"] = settings.pod_image_pull_policy
    return container


def transfer_pod(transfer: Transfer, settings: KubernetesSettings) -> JsonObject:
    """Gives the pod that serves a volume over HTTP to clients with the transfer's token."""
    reads = transfer.mode is TransferMode.READ
    port = settings.transfer_port
    agent = _knit_container(AGENT, "agent", settings) | {
        "args": [
            *("--path", AGENT_FOLDER, "--mode", transfer.mode.value),
            *("--port", str(port), "--idle", f"{transfer.idle.total_seconds():g}"),
        ],
        "env": [{"name": "KNIT_TRANSFER_TOKEN", "valueFrom": {"secretKeyRef": _token(transfer)}}],
        "ports": [{"name": "dataagt-port", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1},
        "resources": {
            "requests": {"cpu": "50m", "memory": "100Mi"},
            "limits": {"memory": "256Mi"},
        },
        "volumeMounts": [{"name": "the-volume", "mountPath": AGENT_FOLDER, "readOnly": reads}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": transfer.name, "labels": transfer_labels(transfer, settings)},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "securityContext": pod_context(settings),
            "containers": [agent],
            "volumes": [_claimed("the-volume", transfer.volume)],
            **_pull_secrets(settings),
        },
    }


def transfer_labels(transfer: Transfer, settings: KubernetesSettings) -> dict[str, str]:
    """Gives the labels of a transfer pod and its Secret."""
    return labels("dataagt", transfer.name, settings) | {
        names.LABEL_AGENT_KNIT_ID: transfer.volume.knit_id,
        names.LABEL_AGENT_MODE: transfer.mode.value,
    }


def _token(transfer: Transfer) -> JsonObject:
    return {"name": transfer.name, "key": TOKEN_KEY}


def transfer_secret(transfer: Transfer, pod_uid: str, settings: KubernetesSettings) -> JsonObject:
    """Gives the Secret with a transfer's token; its pod owns it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": transfer.name,
            "labels": transfer_labels(transfer, settings),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": transfer.name, "uid": pod_uid}
            ],
        },
        "immutable": True,
        "stringData": {TOKEN_KEY: transfer.token},
    }


def prerequisites(settings: KubernetesSettings) -> list[JsonObject]:
    """Gives what the namespace needs before the first Run, in order of creation: the rights with
    which the log sidecar reads logs.
    """
    account, role = settings.log_service_account, "read-log"
    rules: list[JsonObject] = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": account, "namespace": settings.kube_namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": role},
            "rules": rules,
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"{account}-{role}"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": role},
            "subjects": [subject],
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": settings.log_secret,
                "annotations": {"kubernetes.io/service-account.name": account},
            },
            "type": "kubernetes.io/service-account-token",
        },
    ]
