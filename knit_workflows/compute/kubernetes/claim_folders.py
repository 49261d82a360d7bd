"""Claims whose folder this machine has: with local storage on one machine, or a share it mounts.

Nothing in a claim says so. An installation does (`volume_folders`), as provisioners make the name
of a folder from those of claim and volume.
"""

from __future__ import annotations

from pathlib import Path

from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.settings import KubernetesSettings


def folder_of(claim: JsonObject, settings: KubernetesSettings) -> Path | None:
    """Gives the folder of a claim; None if it is not bound, or not here."""
    volume = (claim.get("spec") or {}).get("volumeName")
    bound = (claim.get("status") or {}).get("phase") == "Bound"
    if settings.volume_folders is None or not volume or not bound:
        return None
    path = settings.volume_folders.format(
        pv=volume, claim=claim["metadata"]["name"], namespace=settings.kube_namespace
    )
    return Path(path) if Path(path).is_dir() else None
