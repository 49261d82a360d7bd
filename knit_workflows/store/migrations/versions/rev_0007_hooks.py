"""Places for hooks and their deliveries, who made a change, and what becomes of a volume.

Revision 0007, after 0006.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0007", "0006"
upgrade = beside(__file__)
