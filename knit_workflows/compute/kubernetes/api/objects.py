"""Kubernetes objects as the API server writes them, and how to read the common parts of them.

They stay plain JSON: the client library's models would be built and discarded for every change of
every pod.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object; the one place where `Any` enters this package."""


def instant(text: str | None) -> datetime | None:
    """Reads an RFC 3339 instant; None if there is none."""
    return datetime.fromisoformat(text) if text else None


def created_at(thing: JsonObject) -> datetime | None:
    """Gives the creation timestamp."""
    return instant(thing["metadata"].get("creationTimestamp"))


def being_deleted(thing: JsonObject) -> bool:
    """Says whether it is being deleted: its name is still in use, and it will not come back."""
    return thing["metadata"].get("deletionTimestamp") is not None


def version_of(thing: JsonObject) -> int:
    """Gives the resourceVersion as a number that grows with each change; 0 if it is not a number.

    Kubernetes guarantees the order of versions of one resource type since 1.35, and etcd always
    kept it; with a server that writes something else, every version counts as new.
    """
    text = thing["metadata"].get("resourceVersion", "")
    return int(text) if text.isdigit() else 0


def condition(thing: JsonObject, kind: str) -> JsonObject | None:
    """Gives the condition of that type, or None."""
    for item in thing.get("status", {}).get("conditions") or ():
        if item.get("type") == kind:
            found: JsonObject = item
            return found
    return None


def condition_is(thing: JsonObject, kind: str) -> bool:
    """Says whether the condition is there, with the status True."""
    found = condition(thing, kind)
    return found is not None and found.get("status") == "True"


def now() -> datetime:
    """Gives the current instant; good enough for ages of objects, which are exact to seconds."""
    return datetime.now(UTC)
