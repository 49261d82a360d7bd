"""Volumes as claims that any number of pods may mount; create and delete find what is there."""

from __future__ import annotations

from knit_workflows.compute.base import Volume
from knit_workflows.compute.kubernetes import manifests
from knit_workflows.compute.kubernetes.objects import being_deleted
from knit_workflows.compute.kubernetes.server import ApiServer
from knit_workflows.compute.kubernetes.settings import KubernetesSettings
from knit_workflows.domain.errors import BackendUnavailable

_CLAIM = "PersistentVolumeClaim"


class Volumes:
    """The claims of one namespace."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings

    async def create(self, volume: Volume) -> None:
        """Make a claim. It is not waited for: the scheduler waits until claims are bound."""
        if await self._server.create(_CLAIM, manifests.volume_claim(volume, self._settings)):
            return
        there = await self._server.get(_CLAIM, volume.name)
        if there is None or being_deleted(there):
            raise BackendUnavailable(
                f"the volume {volume.name} is just being deleted", see=volume.knit_id
            )

    async def delete(self, volume: Volume) -> None:
        """Remove a claim; while a pod mounts it, Kubernetes puts its removal off."""
        await self._server.delete(_CLAIM, volume.name, {"propagationPolicy": "Background"})
