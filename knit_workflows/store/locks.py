"""PostgreSQL's advisory locks: numbers that no other user of the database takes."""

from __future__ import annotations

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """Whoever holds one of them does it alone."""

    MIGRATION = 5_640_101
    ADMISSION = 5_640_102
    REGISTRATION = 5_640_103
    """Of Plans."""
    TOKENS = 5_640_104
    ADOPTION = 5_640_105
    IMPORT_KEYS = 5_640_106
