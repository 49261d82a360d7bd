"""Tokens, and the audit log, of which nothing can be changed or removed.

Revision 0008, after 0007.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0008", "0007"
upgrade = beside(__file__)
