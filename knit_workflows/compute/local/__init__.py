"""The local back-end: run pods as containers or sandboxes on this machine, volumes as folders."""

from __future__ import annotations

from knit_workflows.compute.local.backend import LocalBackend

__all__ = ["LocalBackend"]
