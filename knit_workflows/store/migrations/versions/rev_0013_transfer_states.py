"""The state of a transfer in a column of its own; it was in `endpoint`.

Revision 0013, after 0012.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0013", "0012"
upgrade = beside(__file__)
