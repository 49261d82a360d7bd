"""Everything knit remembers: the one adapter of `domain.ports.Store`, on PostgreSQL."""

from __future__ import annotations

from knit_workflows.store.migrations import RoleRefused, migrate
from knit_workflows.store.postgres import PostgresStore

__all__ = ["PostgresStore", "RoleRefused", "migrate"]
