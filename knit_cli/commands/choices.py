"""Flag values that several commands share."""

from __future__ import annotations

from enum import StrEnum

import typer

from knit_cli.errors import BadInput


class YesNoBoth(StrEnum):
    """A filter on something that is or is not; `true` and `false` mean yes and no."""

    BOTH = "both"
    YES = "yes"
    TRUE = "true"
    NO = "no"
    FALSE = "false"

    @property
    def wanted(self) -> bool | None:
        """What is wanted, or None for either."""
        if self is YesNoBoth.BOTH:
            return None
        return self in (YesNoBoth.YES, YesNoBoth.TRUE)

    def allows(self, value: bool) -> bool:
        """Tells whether something that is so, or not, passes."""
        return self.wanted is None or self.wanted == value


def read_hops(text: str) -> int | None:
    """Gives how far a graph is followed, as `--numbers` says: at least 1, or None for `all`.

    Raises:
        BadInput: the text is no number.
        typer.BadParameter: the number is too small.
    """
    if text == "all":
        return None
    try:
        hops = int(text)
    except ValueError as cause:
        raise BadInput(f"--numbers is not a number: {text!r}", advice="write 3, or all") from cause
    if hops < 1:
        raise typer.BadParameter("it must be at least 1, or all", param_hint="--numbers")
    return hops
