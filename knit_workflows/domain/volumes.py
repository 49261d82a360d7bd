"""Volumes, and where a run pod sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume that holds one Data.

    `name` is from `names.volume`; that of an adopted volume is what its back-end calls it.
    """

    name: str
    knit_id: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume that a container sees at an absolute, clean `path`."""

    path: str
    volume: Volume
