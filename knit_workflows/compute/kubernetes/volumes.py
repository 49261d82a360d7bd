"""Volumes as claims that any number of pods may mount; both calls may be repeated."""

from __future__ import annotations

import asyncio
from typing import Final

from knit_workflows.backoff import Backoff
from knit_workflows.compute.kubernetes import manifests
from knit_workflows.compute.kubernetes.objects import being_deleted
from knit_workflows.compute.kubernetes.server import ApiServer
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import KubernetesSettings

_CLAIM: Final = "PersistentVolumeClaim"
_ATTEMPTS: Final = 6
"""While an earlier claim of that name is being deleted; an unused one is gone after the first."""


class Volumes:
    """The claims of one namespace."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings

    async def create(self, volume: Volume) -> None:
        """Creates a claim, without waiting for it: the scheduler waits until claims are bound."""
        claim = manifests.volume_claim(volume, self._settings)
        backoff = Backoff(0.1, 1.0)
        for _ in range(_ATTEMPTS):
            if await self._server.create(_CLAIM, claim):
                return
            there = await self._server.get(_CLAIM, volume.name)
            if there is not None and not being_deleted(there):
                return
            await asyncio.sleep(backoff.next())
        raise BackendUnavailable(
            f"the volume {volume.name} is still being deleted", see=volume.knit_id
        )

    async def delete(self, volume: Volume) -> None:
        """Deletes a claim; Kubernetes keeps it while a pod mounts it."""
        await self._server.delete(_CLAIM, volume.name, {"propagationPolicy": "Background"})
