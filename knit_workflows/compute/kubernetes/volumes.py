"""Volumes as claims that any number of pods may mount; both calls may be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.backoff import Backoff
from knit_workflows.compute.base import FoundVolume
from knit_workflows.compute.kubernetes.adopted_claims import (
    check_adoptable,
    check_name,
    refuse_change,
)
from knit_workflows.compute.kubernetes.api.objects import JsonObject, being_deleted, created_at
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import (
    BackendUnavailable,
    InvalidQuantity,
    VolumeRefused,
)
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.domain.volumes import Volume, VolumeOptions
from knit_workflows.settings import KubernetesSettings

_CLAIM: Final = "PersistentVolumeClaim"
_ATTEMPTS: Final = 6
"""While an earlier claim of that name is being deleted; an unused one is gone after the first."""


class Volumes:
    """The claims of one namespace."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings

    async def create(self, volume: Volume) -> VolumeOptions:
        """Creates a claim, without waiting for it: the scheduler waits until claims are bound.

        Gives what the claim that is there asks for; its class is the cluster's default if nobody
        has named one, as the API server says.
        """
        refuse_change(volume)
        claim = manifests.volume_claim(volume, self._settings)
        backoff = Backoff(0.1, 1.0)
        for _ in range(_ATTEMPTS):
            if made := await self._server.create(_CLAIM, claim):
                return manifests.wanted_of(made)
            there = await self._server.get(_CLAIM, volume.name)
            if there is not None and not being_deleted(there):
                return manifests.wanted_of(there)
            await asyncio.sleep(backoff.next())
        raise BackendUnavailable(
            f"the volume {volume.name} is still being deleted", see=volume.knit_id
        )

    async def delete(self, volume: Volume) -> None:
        """Deletes a claim; Kubernetes keeps it while a pod mounts it."""
        refuse_change(volume)
        await self._server.delete(_CLAIM, volume.name, {"propagationPolicy": "Background"})

    async def missing(self, volumes: Sequence[Volume]) -> list[Volume]:
        """Gives those whose claim is gone, about to go, or has lost its volume."""
        claims = await asyncio.gather(*(self._server.get(_CLAIM, one.name) for one in volumes))
        return [one for one, claim in zip(volumes, claims, strict=True) if _is_missing(claim)]

    async def found(self, *, with_origins: bool) -> AsyncGenerator[FoundVolume, None]:
        """Yields the claims that have the label and a name of knit's own.

        With origins those are left out that are being deleted: their content will be gone.
        """
        async with aclosing(
            self._server.pages(_CLAIM, {"labelSelector": names.LABEL_KNIT_ID})
        ) as pages:
            async for page in pages:
                for claim in page:
                    about = claim["metadata"]
                    if with_origins and being_deleted(claim):
                        continue
                    if names.is_own_volume(about["name"]):
                        noted = (about.get("annotations") or {}) if with_origins else {}
                        origin = noted.get(names.ANNOTATION_ORIGIN, "")
                        yield FoundVolume(about["name"], created_at(claim), origin)

    async def adoptable(self, name: str) -> str:
        """Gives the name of a claim of others; raises VolumeRefused."""
        check_name(name)
        claim = await self._server.get(_CLAIM, name)
        check_adoptable(name, claim, namespace=self._settings.kube_namespace)
        return name

    async def require_bound(self, volume: Volume, within: timedelta) -> None:
        """Returns once a claim is bound; raises VolumeRefused if it is missing, or not in time."""
        deadline = asyncio.get_running_loop().time() + within.total_seconds()
        backoff = Backoff(0.1, 0.5)
        while True:
            claim = await self._server.get(_CLAIM, volume.name)
            if claim is None or being_deleted(claim):
                raise VolumeRefused(
                    f"there is no claim {volume.name} in the namespace "
                    f"{self._settings.kube_namespace}",
                    advice="make it, bound to the volume, then end the import again",
                    see=volume.knit_id,
                )
            phase = (claim.get("status") or {}).get("phase", "Pending")
            if phase == "Bound":
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise VolumeRefused(
                    f"the claim {volume.name} is {phase}, not Bound",
                    advice="bind it to a volume, then end the import again",
                    see=volume.knit_id,
                )
            await asyncio.sleep(backoff.next())

    async def capacity(self, volume: Volume) -> int | None:
        """Gives the capacity of a claim in bytes; None if it has none (yet)."""
        claim = await self._server.get(_CLAIM, volume.name)
        storage = ((claim or {}).get("status") or {}).get("capacity", {}).get("storage")
        try:
            return None if storage is None else int(parse_quantity(storage))
        except InvalidQuantity:
            return None


def _is_missing(claim: JsonObject | None) -> bool:
    if claim is None or being_deleted(claim):
        return True
    return bool((claim.get("status") or {}).get("phase") == "Lost")
