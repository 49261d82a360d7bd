"""The local back-end: run pods as containers or sandboxes on this machine, volumes as folders."""

from __future__ import annotations

from knit_workflows.compute.local.backend import LocalBackend
from knit_workflows.compute.local.settings import LocalSettings

__all__ = ["LocalBackend", "LocalSettings"]
