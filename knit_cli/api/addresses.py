"""Parts of the addresses of requests."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote


def segment(text: str) -> str:
    """Gives an id as one segment of a path."""
    # Whatever the user typed is one path segment: `..` must not lead to another address.
    return quote(text, safe="").replace(".", "%2E")


def window(since: datetime | None, duration: str | None = None) -> list[tuple[str, str]]:
    """Gives the query for what happened since an instant, and for no longer than a duration."""
    query = []
    if since is not None:
        query.append(("since", since.isoformat()))
    if duration is not None:
        query.append(("duration", duration))
    return query
