"""What Temporal shows of a workflow, within what every server takes; pure."""

from __future__ import annotations

from typing import Final

SUMMARY_BYTES: Final = 180
"""Some servers take 400 bytes, of the payload: quotes and backslashes count twice in it."""
DETAILS_BYTES: Final = 9_000
"""Of some 20,000, likewise."""
KEYWORD_CHARACTERS: Final = 255
"""More is not listed on PostgreSQL, and its task is tried again for ever."""


def summary(text: str) -> str:
    """Gives one line; what is too long for it is cut off."""
    return _cut(" ".join(text.split()), SUMMARY_BYTES)


def details(text: str) -> str:
    """Gives a text; what is too long is cut off."""
    return _cut(text, DETAILS_BYTES)


def keyword(value: str) -> str:
    """Gives the value of a search attribute, cut off where it would not be found at all."""
    return value[:KEYWORD_CHARACTERS]


def _cut(text: str, size: int) -> str:
    """Keeps as many whole characters as fit into `size` bytes; control characters take six each."""
    visible = "".join(one if one.isprintable() or one == "\n" else " " for one in text)
    return visible.encode(errors="replace")[:size].decode(errors="ignore")
