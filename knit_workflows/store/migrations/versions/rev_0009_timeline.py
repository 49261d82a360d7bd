"""The milestones of a pod, with the changes of a Run's status that tell of them.

Revision 0009, after 0008.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0009", "0008"
upgrade = beside(__file__)
