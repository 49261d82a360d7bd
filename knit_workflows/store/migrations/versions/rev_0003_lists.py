"""Indexes for lists of Runs and for Data by tag, whatever the size of the store.

Revision 0003, after 0002.
"""

from __future__ import annotations

from knit_workflows.store.migrations.statements import beside

revision, down_revision = "0003", "0002"
upgrade = beside(__file__)
