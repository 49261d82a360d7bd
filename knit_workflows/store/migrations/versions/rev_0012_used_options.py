"""A place for what was in force when a Run was launched, and at each launch in its history.

Revision 0012, after 0011.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0012", "0011"
upgrade = beside(__file__)
