"""Settings of the local back-end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

AUTO: Final = "auto"
NO_ENGINE: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """How run pods run on this machine.

    `state` is one folder on a local disk that holds everything; it may be moved only while no pod
    runs. Images named `host/…` are commands of the machine itself, in a bubblewrap sandbox; they
    see `/usr`, `/etc`, knit's own Python and `host_paths` (all read-only), and their resources are
    not limited. All other images run in a container engine.
    """

    state: Path
    engine: str | None = AUTO
    """`auto` (the first of docker, podman, nerdctl that answers), `none`, or a command."""
    host_images: bool = True
    """Whether `host/…` images may run."""
    host_paths: tuple[Path, ...] = ()
    network: bool = True
    """Whether run pods may use the network."""
    floor: int = 0
    """Bytes that must be free on the disk, or a twentieth of it, for anything new to begin."""
    reread: timedelta = timedelta(seconds=30)
    """How often a watch looks by itself, in case a notification was missed."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    """Environment of the container engine's command (its socket, its context); never the pods'."""
