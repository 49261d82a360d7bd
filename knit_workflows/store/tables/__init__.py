"""The tables, as SQLModel classes: what the migrations must arrive at (a test compares them).

Only migrations and tests import this package; statements are the named SQL beside each module. All
instants are aware and whole milliseconds, the precision in which they are shown.
"""

from __future__ import annotations

from knit_workflows.store.tables import access, hooks, lineage, work
from knit_workflows.store.tables.columns import metadata

__all__ = ["access", "hooks", "lineage", "metadata", "work"]
