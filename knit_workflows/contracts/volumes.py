"""Messages and activity of `knit.Volumes`, which looks at volumes on behalf of the API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Literal

from pydantic import Field
from temporalio import activity

from knit_workflows.contracts.messages import Message

Question = Literal["adoptable", "bound", "bytes"]


class LookAtVolumes(Message):
    """A question about volumes, by the names that the back-end gives them."""

    question: Question
    names: list[str]


class VolumesInput(LookAtVolumes):
    """The same, and where it is answered."""

    compute_queue: str
    heartbeat: timedelta = timedelta(seconds=20)


class VolumeAnswer(Message):
    """The answer about one volume.

    `name` is what the back-end calls it; `reason` says why it is refused, and is empty if it is
    not; `bytes` is None if its size cannot be known.
    """

    name: str
    reason: str = ""
    advice: str = ""
    bytes: int | None = None


class VolumeAnswers(Message):
    """One answer per name, in the order asked; or why there are none: the back-end is away."""

    volumes: list[VolumeAnswer] = Field(default_factory=list)
    kind: str = ""
    """Name of the domain error."""
    reason: str = ""
    advice: str = ""


class VolumeActivities(ABC):
    """The activity of `knit.Volumes`."""

    @activity.defn(name="knit.look_at_volumes")
    @abstractmethod
    async def look_at_volumes(self, request: LookAtVolumes) -> VolumeAnswers:
        """Asks the back-end."""
