"""Completion of ids and tags on a command line, by prefix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Noun(StrEnum):
    """What kind of value is completed."""

    DATA = "data"
    RUNS = "runs"
    PLANS = "plans"
    TAGS = "tags"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Completion:
    """An id, a tag or a key, and a short description of it (may be empty)."""

    value: str
    words: str
