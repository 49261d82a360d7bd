"""Places for what cannot be kept of a Run's outputs, and for why no Run is admitted.

Revision 0006, after 0005.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0006", "0005"
upgrade = beside(__file__)
