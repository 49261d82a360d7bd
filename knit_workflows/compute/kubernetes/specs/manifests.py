"""Manifests of what knit creates in a cluster; pure functions.

Names, labels and container names are Knitfab's, so that operators' tools keep working.
"""

from __future__ import annotations

from typing import Final

from knit_workflows import names
from knit_workflows.compute.base import RunPod, Transfer, TransferMode
from knit_workflows.compute.kubernetes.adopted_claims import refuse_change
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.specs.options import DEFAULT_CONTAINER, with_options
from knit_workflows.compute.kubernetes.specs.placement import placement
from knit_workflows.compute.kubernetes.specs.run_containers import (
    MAIN,
    check_empty,
    is_supervised,
    knit_container,
    literal,
    log_account,
    log_reader,
    mounts,
    resources,
    share_folder,
    share_volume,
    supervised,
    supervisor,
    token_volume,
)
from knit_workflows.compute.kubernetes.specs.security import pod_context, user_container_context
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.plans.model import LOG_PATH
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions
from knit_workflows.settings import KubernetesSettings

AGENT: Final = "dataagt"

LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
"""On Jobs, their pods, claims and transfer pods: the name that knit computed."""

AGENT_FOLDER: Final = "/data"
TOKEN_KEY: Final = "token"


def labels(kind: str, instance: str, settings: KubernetesSettings) -> dict[str, str]:
    """Gives the recommended labels of a `worker`, `data` or `dataagt` object."""
    return {
        "app.kubernetes.io/version": settings.version or f"v{names.VERSION}",
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
    metadata: JsonObject = {
        "name": volume.name,
        "labels": labels("data", volume.name, settings) | {names.LABEL_KNIT_ID: volume.knit_id},
    }
    if volume.origin:
        metadata["annotations"] = {names.ANNOTATION_ORIGIN: volume.origin}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": spec,
    }


def wanted_of(claim: JsonObject) -> VolumeOptions:
    """Gives what a claim asks for: the inverse of `volume_claim`."""
    spec = claim.get("spec") or {}
    return VolumeOptions(
        storage_class=spec.get("storageClassName"),
        access_mode=next(iter(spec.get("accessModes") or ()), None),
        size=((spec.get("resources") or {}).get("requests") or {}).get("storage"),
    )


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
            "template": {
                "metadata": {
                    "labels": own_labels,
                    "annotations": {DEFAULT_CONTAINER: MAIN},
                },
                "spec": _pod_spec(pod, settings),
            },
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
        **_containers(pod, settings),
        "volumes": _volumes(pod, settings),
        **placement(pod.on_node),
    }
    if (account := log_account(pod, settings)) is not None:
        spec["serviceAccountName"] = account
    return spec


def _containers(pod: RunPod, settings: KubernetesSettings) -> JsonObject:
    """Gives the containers, in the order in which they start."""
    main = _main(pod)
    if is_supervised(pod, settings):
        folder = share_folder(pod)
        first = supervisor(pod.log, pod.outputs, folder, settings)
        return {"containers": [first, supervised(main, pod, folder)]}
    containers = [main]
    if pod.log is not None:
        # The kubelet pulls images and starts containers in this order: the reader is not late.
        containers = [log_reader(pod.log, pod.outputs, settings), main]
    if writable := _writable(pod):
        return {"initContainers": [check_empty(writable, settings)], "containers": containers}
    return {"containers": containers}


def _pull_secrets(settings: KubernetesSettings) -> JsonObject:
    names = settings.image_pull_secrets
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def _volumes(pod: RunPod, settings: KubernetesSettings) -> list[JsonObject]:
    mounted = {mount.volume.knit_id: mount.volume for mount in (*pod.inputs, *_writable(pod))}
    volumes = [_claimed(knit_id, volume) for knit_id, volume in mounted.items()]
    if is_supervised(pod, settings):
        volumes.append(share_volume())
    elif pod.log is not None:
        volumes.append(token_volume(pod))
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
            *mounts(pod.inputs, read_only=True),
            *mounts(pod.outputs, read_only=False),
        ],
    }
    if pod.entrypoint:
        container["command"] = [literal(word) for word in pod.entrypoint]
    if pod.args:
        container["args"] = [literal(word) for word in pod.args]
    if pod.env:
        container["env"] = [
            {"name": name, "value": literal(value)} for name, value in pod.env.items()
        ]
    if pod.resources:
        container["resources"] = {
            "limits": dict(pod.resources),
            "requests": dict(pod.resources),
        }
    return container


def transfer_pod(transfer: Transfer, settings: KubernetesSettings, *, claim_uid: str) -> JsonObject:
    """Gives the pod that serves a volume over HTTP to clients with the transfer's token.

    Its controller is the claim: `kubectl drain` refuses pods that have none, and with a claim its
    pods go, too. The cluster autoscaler asks for the annotation instead.
    """
    reads = transfer.mode is TransferMode.READ
    port = settings.transfer_port
    agent = knit_container(AGENT, "agent", settings) | {
        "args": [
            *("--path", AGENT_FOLDER, "--mode", transfer.mode.value),
            *("--port", str(port), "--idle", f"{transfer.idle.total_seconds():g}"),
        ],
        "env": [{"name": "KNIT_TRANSFER_TOKEN", "valueFrom": {"secretKeyRef": _token(transfer)}}],
        "ports": [{"name": "dataagt-port", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1},
        "resources": resources(settings.transfer_requests, settings.transfer_limits),
        "volumeMounts": [{"name": "the-volume", "mountPath": AGENT_FOLDER, "readOnly": reads}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": transfer.name,
            "labels": transfer_labels(transfer, settings),
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "name": transfer.volume.name,
                    "uid": claim_uid,
                    "controller": True,
                }
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            # What the agent grants transfers under way, and then needs to undo an upload.
            "terminationGracePeriodSeconds": 40,
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
