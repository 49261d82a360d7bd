"""Shows that a started cluster works: node ready, claim granted, a pod seen to run and end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from kube_api import ApiError, KubeApi, Object
from layout import NODE_NAME, STORAGE_CLASS
from provisioner import NAME as PROVISIONER

from knit_workflows.provision.cache import SetUpError

_NAMESPACE = "/api/v1/namespaces/default"
_PROBE = "knit-test-probe"


def wait_for_api(api: KubeApi, still_alive: Callable[[], None]) -> None:
    """Returns when the API server is ready.

    Here and below `still_alive` is called again and again; it raises when waiting is useless.
    """

    def ready() -> bool:
        still_alive()
        return api.is_ready()

    _wait("The API server was not ready", ready, seconds=60)


def wait_for_registry(registry: str, still_alive: Callable[[], None]) -> None:
    """Returns when the image registry answers."""
    host, _, port = registry.rpartition(":")

    def ready() -> bool:
        still_alive()
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return False
        return True

    _wait("The image registry did not answer", ready, seconds=30)


def wait_for_node(api: KubeApi, still_alive: Callable[[], None]) -> None:
    """Returns when the node is Ready and pods may be made."""

    def ready() -> bool:
        still_alive()
        try:
            conditions = api.get(f"/api/v1/nodes/{NODE_NAME}")["status"].get("conditions", [])
            api.get(f"{_NAMESPACE}/serviceaccounts/default")
        except (OSError, ApiError):
            return False
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    _wait("The node did not become Ready", ready, seconds=120)


def create_storage_class(api: KubeApi) -> None:
    """Makes our StorageClass the default one; claims are bound before a pod asks for them."""
    annotation = {"storageclass.kubernetes.io/is-default-class": "true"}
    content: Object = {
        "metadata": {"name": STORAGE_CLASS, "annotations": annotation},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        # WaitForFirstConsumer costs each pod a second more: the scheduler looks once a second.
        "volumeBindingMode": "Immediate",
    }
    api.create("/apis/storage.k8s.io/v1/storageclasses", content)


def probe(api: KubeApi, image: str) -> None:
    """Runs a pod that writes to a claim, and sees the folder come and go.

    Raises:
        SetUpError: one of these does not happen in time.
    """
    claims, pods = f"{_NAMESPACE}/persistentvolumeclaims", f"{_NAMESPACE}/pods"
    try:
        api.create(claims, _claim())
        api.create(pods, _pod(image))
        _wait("The probe pod did not succeed", lambda: _has_succeeded(api), seconds=60)
        name = api.get(f"{claims}/{_PROBE}")["spec"]["volumeName"]
        volume = f"/api/v1/persistentvolumes/{name}"
        folder = Path(api.get(volume)["spec"]["hostPath"]["path"])
        if (folder / "written").read_text() != "by the probe\n":
            raise SetUpError("The probe pod's volume does not hold what the pod wrote.")
    finally:
        api.delete(f"{pods}/{_PROBE}", grace_seconds=0)
        api.delete(f"{claims}/{_PROBE}")
    _wait("The probe's folder was not removed", lambda: not folder.exists(), seconds=30)


def _has_succeeded(api: KubeApi) -> bool:
    phase = api.get(f"{_NAMESPACE}/pods/{_PROBE}")["status"].get("phase")
    if phase == "Failed":
        raise SetUpError("The probe pod failed.")
    return bool(phase == "Succeeded")


def _claim() -> Object:
    return {
        "metadata": {"name": _PROBE},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }


def _pod(image: str) -> Object:
    container = {
        "name": "main",
        "image": image,
        "command": ["/bin/sh", "-c", "echo by the probe > /out/written"],
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
    }
    volume = {"name": "out", "persistentVolumeClaim": {"claimName": _PROBE}}
    return {
        "metadata": {"name": _PROBE},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [volume],
        },
    }


def _wait(failure: str, done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SetUpError(f"{failure} within {seconds:.0f} s.")
        time.sleep(0.1)
