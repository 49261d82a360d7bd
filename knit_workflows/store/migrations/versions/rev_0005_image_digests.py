"""The digest that a Plan's image is pinned by.

Revision 0005, after 0004.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0005", "0004"
upgrade = beside(__file__)
