"""Claims of others: which of them may become Data. Pure functions of a claim."""

from __future__ import annotations

import re
from typing import Final

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.objects import JsonObject, being_deleted
from knit_workflows.domain.errors import BackendRejected, VolumeRefused
from knit_workflows.domain.volumes import Volume

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_ONE_POD: Final = "ReadWriteOncePod"


def refuse_change(volume: Volume) -> None:
    """Raises BackendRejected if a volume, which is about to be changed, is a claim of others."""
    if not names.is_own_volume(volume.name):
        raise BackendRejected(
            f"the claim {volume.name} is only adopted: knit changes and deletes nothing in it",
            see=volume.knit_id,
        )


def check_name(name: str) -> None:
    """Raises VolumeRefused if no claim of others can have that name."""
    if not _NAME.fullmatch(name):
        raise VolumeRefused(
            f"{name[:80]!a} is no name of a PersistentVolumeClaim",
            advice="name a claim: kubectl get persistentvolumeclaims",
        )
    if names.is_own_volume(name):
        raise VolumeRefused(
            f"the claim {name} is knit's own: a Run may still write it",
            advice="use the Data that it belongs to; bind its volume to a claim of another name if "
            "it comes from another knit",
            see=name,
        )


def check_adoptable(name: str, claim: JsonObject | None, *, namespace: str) -> None:
    """Raises VolumeRefused if pods cannot read files of a claim.

    One that is pending may be bound by its first pod, so it is not refused.
    """
    if claim is None:
        raise VolumeRefused(
            f"there is no claim {name} in the namespace {namespace}",
            advice="make one that is bound to the volume, in that namespace",
            see=name,
        )
    phase = (claim.get("status") or {}).get("phase", "Pending")
    spec = claim.get("spec") or {}
    if being_deleted(claim):
        why, advice = "is being deleted", "make another one"
    elif phase == "Lost":
        why, advice = "has lost its volume", "make another one, bound to a volume that exists"
    elif spec.get("volumeMode", "Filesystem") != "Filesystem":
        why, advice = "is a block device", "adopt a claim with volumeMode Filesystem"
    elif _ONE_POD in (spec.get("accessModes") or ()):
        why, advice = f"is {_ONE_POD}: one pod alone may use it", "use ReadOnlyMany or the like"
    else:
        return
    raise VolumeRefused(f"the claim {name} {why}", advice=advice, see=name)
