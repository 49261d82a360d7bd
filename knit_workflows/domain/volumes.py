"""Volumes, and where a run pod sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

AccessMode = Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """How a new volume is made on Kubernetes; None: as the installation says.

    `size` is a canonical quantity of bytes.
    """

    storage_class: str | None = None
    access_mode: AccessMode | None = None
    size: str | None = None


AS_INSTALLED = VolumeOptions()


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume that holds one Data.

    `name` is from `names.volume`; that of an adopted volume is what its back-end calls it.
    `options` count only when it is created, and tell no volume from another. So does `origin`: what
    is kept beside it of the Run that makes it, from which `knit admin rebuild` reads the lineage.
    """

    name: str
    knit_id: str
    options: VolumeOptions = field(default=AS_INSTALLED, compare=False)
    origin: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume that a container sees at an absolute, clean `path`."""

    path: str
    volume: Volume
