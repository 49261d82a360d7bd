"""One suite over everything that backups can be kept in."""

from __future__ import annotations
