"""A place for what Plans ask of a cluster for their run pods and volumes.

Revision 0011, after 0010.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0011", "0010"
upgrade = beside(__file__)
