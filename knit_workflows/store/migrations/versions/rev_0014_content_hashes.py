"""A table for hashes of what is in volumes, which verification compares.

Revision 0014, after 0013.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0014", "0013"
upgrade = beside(__file__)
