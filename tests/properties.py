"""How many examples a property gets."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> int:
    """Gives the number of examples of a costly property; the fast loop is content with its own."""
    if settings.get_current_profile_name() == "quick":
        return min(number, settings.default.max_examples)
    return number
