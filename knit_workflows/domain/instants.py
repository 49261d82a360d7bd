"""Instants: RFC 3339 as the API and the tag `knit#timestamp` write it, in whole milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def parse_instant(text: str) -> datetime:
    """Reads strict RFC 3339, `Z` and up to nanoseconds included; the offset written is kept.

    Digits past microseconds are cut.

    Raises:
        ValueError: not RFC 3339, or no such day or time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time such as 2024-11-18T04:25:32.07+00:00 (RFC 3339)")
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    microsecond = int((match[7] or "")[:6].ljust(6, "0"))
    zone: tzinfo = UTC
    if not match[8]:
        offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
        zone = timezone(-offset if match[9] == "-" else offset)
    return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone)


def format_instant(instant: datetime) -> str:
    """Writes an aware instant as every knit surface shows it: `2024-11-18T04:25:32.07+00:00`.

    The offset is numeric (never `Z`) and the instant's own; at most milliseconds are shown, cut and
    not rounded, without trailing zeros.

    Raises:
        ValueError: the instant has no offset, so nobody could know when it was.
    """
    if instant.utcoffset() is None:
        raise ValueError(f"the instant {instant.isoformat()} has no UTC offset")
    seconds = instant.isoformat(timespec="seconds")
    clock, offset = seconds[:19], seconds[19:]
    fraction = f"{instant.microsecond // 1000:03d}".rstrip("0")
    return f"{clock}.{fraction}{offset}" if fraction else f"{clock}{offset}"


def floor_to_millis(instant: datetime) -> datetime:
    """Drops what is finer than a millisecond, the precision that is stored and shown; in UTC.

    Raises:
        OverflowError: in UTC it would lie outside the years 1 to 9999.
    """
    utc = instant.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


def epoch_millis(instant: datetime) -> int:
    """Counts the whole milliseconds since 1970, rounded down."""
    return (instant - _EPOCH) // _MILLISECOND


def from_epoch_millis(millis: int) -> datetime:
    """Gives the instant that `epoch_millis` counts as `millis`; in UTC.

    Raises:
        OverflowError: it lies after the year 9999.
    """
    return _EPOCH + millis * _MILLISECOND
