"""Texts that Temporal shows of a workflow, within the limits of every server; pure."""

from __future__ import annotations

from typing import Final

SUMMARY_BYTES: Final = 180
"""Some servers accept 400 bytes of payload, in which quotes and backslashes count twice."""
DETAILS_BYTES: Final = 9_000
"""Of some 20,000, for the same reason."""
KEYWORD_CHARACTERS: Final = 255
"""With a longer one, PostgreSQL never lists the workflow and Temporal retries for ever."""


def summary(text: str) -> str:
    """Makes one line, cut to size."""
    return _cut(" ".join(text.split()), SUMMARY_BYTES)


def details(text: str) -> str:
    """Cuts a text to size."""
    return _cut(text, DETAILS_BYTES)


def keyword(value: str) -> str:
    """Cuts the value of a search attribute to size."""
    return value[:KEYWORD_CHARACTERS]


def _cut(text: str, size: int) -> str:
    """Keeps as many characters as fit into `size` bytes; control characters become blanks."""
    visible = "".join(one if one.isprintable() or one == "\n" else " " for one in text)
    return visible.encode(errors="replace")[:size].decode(errors="ignore")
