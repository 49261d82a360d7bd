"""Transfers that read the same Data share the endpoint that the back-end has opened for them.

An endpoint that is shared has the id of the transfer that was first to need it, and its token
begins with that id, so the row of each of its transfers says which endpoint is theirs. Whoever
leaves an endpoint last keeps it for a while, as a row that is idle: the next reader finds it open.

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

MOST_READERS: Final = 8
"""How many transfers may share an endpoint: an agent walks through the volume for each."""
PRESENT_EVERY: Final = timedelta(seconds=5)
"""How often whoever serves a reader records that it is there."""
JOINABLE_FOR: Final = timedelta(seconds=10)
"""An endpoint that has not opened within this time is joined by nobody else: it may be broken."""
_ID_CHARS: Final = 10
_NO_TIME: Final = timedelta(0)


def own_endpoint_id(transfer_id: str) -> str:
    """Gives the id of the endpoint that a transfer opens if there is none to join."""
    return transfer_id[:_ID_CHARS]


def endpoint_token(transfer_id: str, secret: str) -> str:
    """Gives the token of the endpoint that a transfer opens; `secret` is without dots."""
    return f"{own_endpoint_id(transfer_id)}.{secret}"


def endpoint_id_of(token: str) -> str:
    """Gives the id of the endpoint with that token; empty for one that cannot be shared."""
    endpoint_id, dot, _ = token.partition(".")
    return endpoint_id if dot else ""


class TransferState(StrEnum):
    """What the row of a transfer stands for."""

    OPENING = "opening"
    """The back-end has not opened its endpoint yet."""
    OPEN = "open"
    """Its client reads or writes."""
    IDLE = "idle"
    """Its client has what it wanted; the row keeps the endpoint for the next reader."""
    CLOSING = "closing"
    """The endpoint is being closed: nobody may use it any more."""


_NOT_KEPT: Final = (TransferState.OPENING, TransferState.CLOSING)


@dataclass(frozen=True, slots=True)
class Reader:
    """The row of a transfer that reads.

    `since` is when it began, its client was last there, or, if it is idle, its endpoint was last
    used.
    """

    transfer_id: str
    state: TransferState
    since: datetime

    @property
    def is_idle(self) -> bool:
        """Whether it only keeps the endpoint."""
        return self.state is TransferState.IDLE


class Leaving(StrEnum):
    """What becomes of a transfer that ends."""

    GOES = "goes"
    """Its row is removed; others use the endpoint."""
    STAYS = "stays"
    """Its row keeps the endpoint open for the next reader."""
    CLOSES = "closes"
    """Nobody else is there: the endpoint is closed, then the row removed."""


@dataclass(frozen=True, slots=True)
class Left:
    """The outcome of leaving an endpoint; `stays` is for how long it is kept, zero if it is not."""

    endpoint_id: str
    closes: bool = False
    stays: timedelta = _NO_TIME


def may_join(readers: Sequence[Reader], now: datetime) -> bool:
    """Says whether one more transfer may use the endpoint of these."""
    if not 0 < len(readers) < MOST_READERS:
        return False
    return not any(
        one.state is TransferState.CLOSING
        or (one.state is TransferState.OPENING and now - one.since > JOINABLE_FOR)
        for one in readers
    )


def leaving(
    own: Reader | None, others: Sequence[Reader], linger: timedelta, now: datetime
) -> tuple[Leaving, timedelta]:
    """Decides what becomes of a transfer that ends, and for how long it stays.

    Args:
        own: its row; None if somebody has removed it.
        others: the rows of the other transfers that share its endpoint.
        linger: how long an endpoint is kept after its last reader; zero: not at all.
        now: the clock of the rows.
    """
    if others:
        return Leaving.GOES, _NO_TIME
    if own is None or linger <= _NO_TIME or own.state in _NOT_KEPT:
        return Leaving.CLOSES, _NO_TIME
    left = own.since + linger - now if own.is_idle else linger
    return (Leaving.STAYS, left) if left > _NO_TIME else (Leaving.CLOSES, _NO_TIME)
