"""The ids of knit's three nouns: opaque strings to clients, UUIDs in the store."""

from __future__ import annotations

import re
from typing import Final, NewType

PlanId = NewType("PlanId", str)
RunId = NewType("RunId", str)
KnitId = NewType("KnitId", str)

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Says whether a text can be an id of ours; what cannot is simply not found."""
    return _ID.fullmatch(text) is not None
