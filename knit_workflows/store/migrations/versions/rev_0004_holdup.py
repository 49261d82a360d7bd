"""A place for what keeps a Run from starting.

Revision 0004, after 0003.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0004", "0003"
upgrade = beside(__file__)
