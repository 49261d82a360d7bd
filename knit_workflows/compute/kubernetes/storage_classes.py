"""StorageClasses, for trials: whether one is there, and what its provisioner is known not to give.

They are objects of the whole cluster, so looking at them is a right that a worker need not have.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.api.server import ApiServer

CLASSES_UNSEEN: Final = (
    "whether the StorageClass exists, and its provisioner knows the access mode: the workers may "
    "not look at StorageClasses; runs.checkStorageClasses of the chart allows it"
)
_DEFAULT: Final = "storageclass.kubernetes.io/is-default-class"
_BY_HAND: Final = "kubernetes.io/no-provisioner"
_ONE_NODE: Final = frozenset(
    {
        "cinder.csi.openstack.org",
        "csi.hetzner.cloud",
        "disk.csi.azure.com",
        "dobs.csi.digitalocean.com",
        "ebs.csi.aws.com",
        "kubernetes.io/aws-ebs",
        "kubernetes.io/azure-disk",
        "kubernetes.io/gce-pd",
        "linodebs.csi.linode.com",
        "pd.csi.storage.gke.io",
        "rancher.io/local-path",
        "topolvm.io",
    }
)
"""Provisioners whose file systems are on a disk that one node has at a time."""
_RBD: Final = "rbd.csi.ceph.com"
"""Another one, whose name may begin with the namespace of its operator."""


async def storage_class(server: ApiServer, name: str | None) -> JsonObject | None:
    """Gives a class; without a name the cluster's default one, the newest if there are several.

    None: there is none. Raises BackendRejected if knit may not look.
    """
    if name is not None:
        return await server.look_at("StorageClass", name)
    classes = await server.look_at("StorageClass") or {}
    default = [
        one for one in classes.get("items") or () if _annotations(one).get(_DEFAULT) == "true"
    ]
    return max(default, key=_age, default=None)


def judge_class(
    name: str | None, there: JsonObject | None, modes: Collection[str | None]
) -> tuple[list[str], list[str]]:
    """Gives why claims of this class are never bound, and why they may not be; pure."""
    if there is None and name is not None:
        return [
            f"there is no StorageClass {name}; `kubectl get storageclass` lists those there are"
        ], []
    if there is None:
        return [], [
            "it names no StorageClass, and the cluster has no default one: a Run waits until "
            "somebody makes its volumes by hand; name one in `volume`, or for all with "
            "KNIT_COMPUTE__KUBERNETES__STORAGE_CLASS (storage.class.data of the chart)"
        ]
    shown, provisioner = there["metadata"]["name"], there.get("provisioner", "")
    if provisioner == _BY_HAND:
        return [], [
            f"volumes of the StorageClass {shown} are made by hand: whether one of this size and "
            "access mode is free shows when a Run starts"
        ]
    if "ReadWriteMany" in modes and (provisioner in _ONE_NODE or provisioner.endswith(_RBD)):
        return [], [
            f"as far as knit knows, {provisioner} of the StorageClass {shown} gives no "
            "ReadWriteMany volumes: a Run would wait for them without end; choose another class, "
            "or access_mode: ReadWriteOnce, with which one node uses a Data at a time"
        ]
    return [], []


def _annotations(thing: JsonObject) -> dict[str, str]:
    return thing["metadata"].get("annotations") or {}


def _age(thing: JsonObject) -> str:
    return str(thing["metadata"].get("creationTimestamp") or "")
