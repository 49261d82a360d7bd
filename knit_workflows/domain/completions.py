"""What may stand on a command line: ids and tags by how they begin."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Noun(StrEnum):
    """What is completed."""

    DATA = "data"
    RUNS = "runs"
    PLANS = "plans"
    TAGS = "tags"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Completion:
    """An id, a tag or a key, and a few words about it (empty: none)."""

    value: str
    words: str
