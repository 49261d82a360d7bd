"""Discarded volumes, the limits of admission, the priority of Plans.

Revision 0002, after 0001.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0002", "0001"
upgrade = beside(__file__)
