"""Transfers that read the same Data share what the back-end has opened for them: a *door*.

A door is named after the transfer that was first to need it, and its token begins with that name,
so the row of each of its transfers says which door is theirs. Whoever leaves a door last keeps it
for a while, as a row that is idle: the next reader finds it open.

```
opening ──► open ──► (gone, others are there)
              │
              └────► idle ──► closing ──► gone
                      ▲ │
                      └─┘ somebody has read meanwhile
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

IDLE: Final = "idle"
CLOSING: Final = "closing"
"""What stands in place of an endpoint in the row of a transfer that nobody reads by any more."""
MOST_READERS: Final = 8
"""How many transfers may share a door: the agent of a pod walks through the volume for each."""
PRESENT_EVERY: Final = timedelta(seconds=5)
"""How often whoever serves a reader records that it is there."""
JOINABLE_FOR: Final = timedelta(seconds=10)
"""A door that has not opened within this time is joined by nobody else: it may be broken."""
_NAME_CHARS: Final = 10
_NO_TIME: Final = timedelta(0)


def own_door(transfer_id: str) -> str:
    """Gives the name of the door that a transfer opens if there is none to join."""
    return transfer_id[:_NAME_CHARS]


def door_token(transfer_id: str, secret: str) -> str:
    """Gives the token of the door that a transfer opens; `secret` is without dots."""
    return f"{own_door(transfer_id)}.{secret}"


def door_of(token: str) -> str:
    """Gives the name of the door with that token; empty for a transfer that shares nothing."""
    name, dot, _ = token.partition(".")
    return name if dot else ""


@dataclass(frozen=True, slots=True)
class Reader:
    """The row of a transfer that reads.

    `since` is when it began, its client was last there, or, if it is idle, its door was last used.
    """

    transfer_id: str
    endpoint: str
    since: datetime

    @property
    def is_idle(self) -> bool:
        """Whether it only keeps the door."""
        return self.endpoint == IDLE


class Leaving(StrEnum):
    """What becomes of a transfer that ends."""

    GOES = "goes"
    """Its row is removed; others are at the door."""
    STAYS = "stays"
    """Its row keeps the door open for the next reader."""
    CLOSES = "closes"
    """Nobody else is there: the door is closed, then the row removed."""


@dataclass(frozen=True, slots=True)
class Left:
    """The outcome of leaving a door; `stays` is for how long it is kept, zero if it is not."""

    door: str
    closes: bool = False
    stays: timedelta = _NO_TIME


def may_join(readers: Sequence[Reader], now: datetime) -> bool:
    """Says whether one more transfer may use the door of these."""
    if not 0 < len(readers) < MOST_READERS:
        return False
    return not any(
        one.endpoint == CLOSING or (not one.endpoint and now - one.since > JOINABLE_FOR)
        for one in readers
    )


def leaving(
    own: Reader | None, others: Sequence[Reader], linger: timedelta, now: datetime
) -> tuple[Leaving, timedelta]:
    """Decides what becomes of a transfer that ends, and for how long it stays.

    Args:
        own: its row; None if somebody has removed it.
        others: the rows of the other transfers at its door.
        linger: how long a door is kept after its last reader; zero: not at all.
        now: the clock of the rows.
    """
    if others:
        return Leaving.GOES, _NO_TIME
    if own is None or linger <= _NO_TIME or own.endpoint in ("", CLOSING):
        return Leaving.CLOSES, _NO_TIME
    left = own.since + linger - now if own.is_idle else linger
    return (Leaving.STAYS, left) if left > _NO_TIME else (Leaving.CLOSES, _NO_TIME)
