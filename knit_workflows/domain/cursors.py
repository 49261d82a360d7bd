"""Cursors: where the next page of a list begins, also when what stood there has moved or gone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from knit_workflows.domain.errors import InvalidRequest
from knit_workflows.domain.ids import ID_PATTERN
from knit_workflows.domain.instants import epoch_millis, from_epoch_millis

_FORM: Final = re.compile(rf"(?:(?P<millis>[0-9]{{1,14}})?(?P<dot>\.))?(?P<id>{ID_PATTERN})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last item of a page: its id and the instant it was listed by.

    `instant` is None for what had none then; `known` False: only the id is given, and the instant
    is that which the item has now.
    """

    id: str
    instant: datetime | None = None
    known: bool = True

    def __str__(self) -> str:
        """Gives its text, which may stand in a URL as it is: `1767323045678.<id>`, `.<id>`."""
        if not self.known:
            return self.id
        millis = "" if self.instant is None else epoch_millis(self.instant)
        return f"{millis}.{self.id}"


def parse_cursor(text: str) -> Cursor:
    """Reads a cursor's text, or an id alone. Raises InvalidRequest."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"bad request: {text[:80]!r} is no cursor",
            advice="take it from the header X-Next-Cursor, or start again without one",
        )
    millis = found["millis"]
    instant = None if millis is None else from_epoch_millis(int(millis))
    return Cursor(found["id"], instant, known=found["dot"] is not None)
