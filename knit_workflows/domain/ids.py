"""The ids of knit's three nouns: opaque strings to clients, UUIDs in the store."""

from __future__ import annotations

import re
from typing import Final, NewType

PlanId = NewType("PlanId", str)
RunId = NewType("RunId", str)
KnitId = NewType("KnitId", str)

ID_PATTERN: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
"""A regular expression without groups that matches an id as knit writes it, in lower case."""

_ID: Final = re.compile(ID_PATTERN)


def is_id(text: str) -> bool:
    """Says whether a text can be an id of ours; what cannot is simply not found."""
    return _ID.fullmatch(text) is not None


def parse_id(text: str) -> str | None:
    """Reads an id in any case of letters; gives it in lower case, or None for what is no id."""
    lower = text.lower()
    return lower if is_id(lower) else None
