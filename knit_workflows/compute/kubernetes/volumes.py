"""Volumes as claims that any number of pods may mount; create and delete find what is there."""

from __future__ import annotations

import asyncio
from typing import Final

from knit_workflows.compute.base import Volume
from knit_workflows.compute.kubernetes import manifests
from knit_workflows.compute.kubernetes.objects import being_deleted
from knit_workflows.compute.kubernetes.server import ApiServer
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.settings import KubernetesSettings

_CLAIM: Final = "PersistentVolumeClaim"
_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds to wait for an earlier claim of that name; an unused one goes within the first."""


class Volumes:
    """The claims of one namespace."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings

    async def create(self, volume: Volume) -> None:
        """Makes a claim. It is not waited for: the scheduler waits until claims are bound."""
        claim = manifests.volume_claim(volume, self._settings)
        for pause in _PAUSES:
            if await self._server.create(_CLAIM, claim):
                return
            there = await self._server.get(_CLAIM, volume.name)
            if there is not None and not being_deleted(there):
                return
            await asyncio.sleep(pause)
        raise BackendUnavailable(
            f"the volume {volume.name} is still being deleted", see=volume.knit_id
        )

    async def delete(self, volume: Volume) -> None:
        """Removes a claim; while a pod mounts it, Kubernetes puts its removal off."""
        await self._server.delete(_CLAIM, volume.name, {"propagationPolicy": "Background"})
