"""Grants the claims of one StorageClass with folders of this machine, as soon as they appear.

A claim becomes a hostPath volume that many may write to; when it is released, volume and folder go.
Started by the node's init as: provisioner.py SERVER CERTIFICATES FOLDER STORAGE_CLASS
"""

from __future__ import annotations

import http
import http.client
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kube_api import Access, ApiError, KubeApi, Object

NAME = "knit.test/folders"
CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_SELECTED_NODE = "volume.kubernetes.io/selected-node"


class Provisioner:
    """Decides and acts on single claims and volumes; every act may be repeated."""

    def __init__(self, api: KubeApi, folder: Path, storage_class: Object) -> None:
        self._api = api
        self._folder = folder
        self._class: str = storage_class["metadata"]["name"]
        self._reclaim: str = storage_class.get("reclaimPolicy", "Delete")
        self._waits = storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"

    def see_claim(self, claim: Object) -> None:
        """Makes the folder and the volume of an unbound claim of our class."""
        if not self._is_wanted(claim):
            return
        name = f"pvc-{claim['metadata']['uid']}"
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # Whatever user a container has may write, as on an NFS export.
        self._api.create(VOLUMES, self._volume(name, folder, claim))

    def see_volume(self, volume: Object) -> None:
        """Removes the folder, then the volume, once its claim is gone."""
        owner = volume["metadata"].get("annotations", {}).get(_PROVISIONED_BY)
        spec = volume["spec"]
        released = volume.get("status", {}).get("phase") == "Released"
        if owner != NAME or not released or spec["persistentVolumeReclaimPolicy"] != "Delete":
            return
        folder = Path(spec["hostPath"]["path"])
        if folder.parent == self._folder and folder.exists():
            shutil.rmtree(folder)
        self._api.delete(f"{VOLUMES}/{volume['metadata']['name']}")

    def _is_wanted(self, claim: Object) -> bool:
        spec, metadata = claim["spec"], claim["metadata"]
        if spec.get("storageClassName") != self._class or spec.get("volumeName"):
            return False
        if metadata.get("deletionTimestamp"):
            return False
        return not self._waits or _SELECTED_NODE in metadata.get("annotations", {})

    def _volume(self, name: str, folder: Path, claim: Object) -> Object:
        metadata, spec = claim["metadata"], claim["spec"]
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        return {
            "metadata": {"name": name, "annotations": {_PROVISIONED_BY: NAME}},
            "spec": {
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "accessModes": spec["accessModes"],
                "persistentVolumeReclaimPolicy": self._reclaim,
                "storageClassName": self._class,
                "volumeMode": spec.get("volumeMode", "Filesystem"),
                "claimRef": reference,
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        }


RELIST_SECONDS = 10


def follow(access: Access, path: str, see: Callable[[Object], None]) -> None:
    """Shows `see` every object of a collection now, at each change, and again from time to time."""
    api = KubeApi(access)
    while True:
        try:
            listed = api.get(path)
            for found in listed["items"]:
                _seen_safely(see, found)
            version = listed["metadata"]["resourceVersion"]
            for event in api.watch(path, version, seconds=RELIST_SECONDS):
                if event["type"] in ("ADDED", "MODIFIED"):
                    _seen_safely(see, event["object"])
        except (OSError, http.client.HTTPException, ApiError, ValueError) as error:
            print(f"watching {path}: {error}; starting again", file=sys.stderr, flush=True)
            time.sleep(0.5)


def _seen_safely(see: Callable[[Object], None], found: Object) -> None:
    # One bad object must not stop the service of the others; the next list, RELIST_SECONDS away at
    # most, tries it again.
    try:
        see(found)
    except (OSError, http.client.HTTPException, ApiError, KeyError) as error:
        print(f"{found['metadata']['name']}: {error}", file=sys.stderr, flush=True)


def wait_for_class(api: KubeApi, name: str, pause: float = 0.2) -> Object:
    """Returns the StorageClass once there is one: it is made while this program starts."""
    while True:
        try:
            return api.get(f"/apis/storage.k8s.io/v1/storageclasses/{name}")
        except ApiError as error:
            if error.code != http.HTTPStatus.NOT_FOUND:
                raise
        time.sleep(pause)


def main() -> None:
    """Serves until killed."""
    server, certificates, folder, class_name = sys.argv[1:]
    access = Access.in_folder(server, Path(certificates))
    storage_class = wait_for_class(KubeApi(access), class_name)

    def provisioner() -> Provisioner:
        return Provisioner(KubeApi(access), Path(folder), storage_class)

    volumes = threading.Thread(
        target=follow, args=(access, VOLUMES, provisioner().see_volume), daemon=True
    )
    volumes.start()
    follow(access, CLAIMS, provisioner().see_claim)


if __name__ == "__main__":
    main()
