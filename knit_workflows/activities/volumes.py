"""The activity of `knit.Volumes`: asks the back-end about many volumes at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from temporalio import activity

from knit_workflows.activities.heartbeat import heartbeating
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.contracts.volumes import (
    LookAtVolumes,
    Question,
    VolumeActivities,
    VolumeAnswer,
    VolumeAnswers,
)
from knit_workflows.domain.errors import KnitError, VolumeRefused
from knit_workflows.domain.volumes import Volume

AT_ONCE: Final = 16
BOUND_WITHIN: Final = timedelta(seconds=3)
"""How long the end of an import waits for its volume."""


class ComputeVolumeActivities(VolumeActivities):
    """Looks at volumes through a compute back-end."""

    def __init__(self, backend: ComputeBackend) -> None:
        self._backend = backend

    @activity.defn(name="knit.look_at_volumes")
    async def look_at_volumes(self, request: LookAtVolumes) -> VolumeAnswers:
        """Asks while it sends heartbeats."""
        async with heartbeating():
            return await self.answers(request)

    async def answers(self, request: LookAtVolumes) -> VolumeAnswers:
        """Asks about `AT_ONCE` volumes at a time.

        That the back-end is away is an answer too, because a user is waiting.
        """
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(name: str) -> VolumeAnswer:
            async with slots:
                return await self._ask(request.question, name)

        try:
            volumes = await asyncio.gather(*map(ask, request.names))
        except KnitError as error:
            return VolumeAnswers(
                kind=type(error).__name__, reason=error.reason, advice=error.advice
            )
        return VolumeAnswers(volumes=volumes)

    async def _ask(self, question: Question, name: str) -> VolumeAnswer:
        if question == "bytes":
            return VolumeAnswer(
                name=name, bytes=await self._backend.measure_volume(Volume(name, ""))
            )
        try:
            if question == "bound":
                await self._backend.require_bound(Volume(name, ""), within=BOUND_WITHIN)
                return VolumeAnswer(name=name)
            return VolumeAnswer(name=await self._backend.adoptable(name))
        except VolumeRefused as refused:
            return VolumeAnswer(name=name, reason=refused.reason, advice=refused.advice)
