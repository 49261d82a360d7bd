"""The first tables, and the built-in Plans.

Revision 0001, the first.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0001", None
upgrade = beside(__file__)
