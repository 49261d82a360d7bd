"""Volumes that wait for uploads.

Revision 0010, after 0009.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0010", "0009"
upgrade = beside(__file__)
