"""Flags and their values that several commands share."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from knit_cli.errors import BadInput
from knit_cli.shell.completion import complete_tag
from knit_cli.time_flags import read_duration, read_instant

Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only from this time on.")]
Duration = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="With --since: length of the period, such as 2h45m."),
]


def tag_option(*flags: str, help: str) -> Any:
    """Gives an option that takes tags."""
    return typer.Option(*flags, metavar="KEY:VALUE", help=help, autocompletion=complete_tag)


class YesNoBoth(StrEnum):
    """A filter on a property that may be true or false."""

    BOTH = "both"
    YES = "yes"
    TRUE = "true"
    NO = "no"
    FALSE = "false"

    @property
    def wanted(self) -> bool | None:
        """The wanted value, or None for either."""
        if self is YesNoBoth.BOTH:
            return None
        return self in (YesNoBoth.YES, YesNoBoth.TRUE)

    def allows(self, value: bool) -> bool:
        """Tells whether a value passes the filter."""
        return self.wanted is None or self.wanted == value


def read_hops(text: str) -> int | None:
    """Reads `--numbers`, how far to follow a graph: at least 1, or None for `all`.

    Raises:
        BadInput: the text is not a number.
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


def read_period(since: str | None, duration: str | None) -> datetime | None:
    """Reads `--since` and checks `--duration`; None: from the beginning.

    Raises:
        BadInput: one of them cannot be read.
        typer.BadParameter: there is a duration without a start.
    """
    if duration is not None:
        if since is None:
            raise typer.BadParameter("it needs --since", param_hint="--duration")
        read_duration(duration, "--duration")
    return read_instant(since, "--since") if since is not None else None
