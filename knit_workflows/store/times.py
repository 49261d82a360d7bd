"""Instants as the database keeps them: whole milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def floor_ms(instant: datetime) -> datetime:
    """Drops what is finer than a millisecond; in UTC."""
    utc = instant.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)
