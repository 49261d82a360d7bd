"""Adoption on the wire: volumes of others become Data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from knit_workflows.wire.base import Request, Response, optional
from knit_workflows.wire.data import Data
from knit_workflows.wire.tags import RequestTags


class VolumeToAdopt(Request):
    """A volume, by the name that its back-end gives it: a claim, or the path of a folder."""

    volume: str
    tags: RequestTags = Field(default_factory=list)


class AdoptRequest(Request):
    """The body of `POST /adoptions`; with `dry_run` nothing is adopted."""

    volumes: list[VolumeToAdopt]
    dry_run: bool = False


class AdoptedVolume(Response):
    """What becomes of one volume.

    `outcome` is `new`, `known` if it has been adopted before, or `refused`, with `reason` and
    `advice`, which only a dry run answers. `data` is there unless it is refused, or yet to be made.
    """

    volume: str
    outcome: Literal["new", "known", "refused"]
    reason: str | None = optional()
    advice: str | None = optional()
    data: Data | None = optional()
