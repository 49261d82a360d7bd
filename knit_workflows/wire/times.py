"""Instants (RFC 3339 with a numeric offset) and durations (Go's) as the wire writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MICROSECONDS = {
    "ns": Fraction(1, 1000),
    "us": Fraction(1),
    "µs": Fraction(1),  # U+00B5, the micro sign
    "μs": Fraction(1),  # U+03BC, the Greek letter
    "ms": Fraction(1000),
    "s": Fraction(1_000_000),
    "m": Fraction(60_000_000),
    "h": Fraction(3_600_000_000),
}


def format_time(instant: datetime) -> str:
    """Gives the wire form of an aware instant: `2024-11-18T04:25:32.07+00:00`.

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


def parse_time(text: str) -> datetime:
    """Gives the aware instant of strict RFC 3339, `Z` and up to nanoseconds included.

    Digits past microseconds are cut. The offset written is kept.

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


def parse_duration(text: str) -> timedelta:
    """Gives the length of a Go duration: `300ms`, `1.5h`, `2h45m`, `-3s`, `0`.

    Units are ns, us (or µs), ms, s, m and h. What is finer than a microsecond is cut.

    Raises:
        ValueError: not such a duration, or longer than Go's own limit of about 292 years.
    """
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return timedelta()
    total, position = Fraction(), 0
    while part := _DURATION_PART.match(body, position):
        amount = part[1] + "0" if part[1].endswith(".") else part[1]
        total += Fraction(amount) * _MICROSECONDS[part[2]]
        position = part.end()
    # Go counts nanoseconds in 64 bits; a longer duration is an error there, not a longer window.
    if not body or position != len(body) or total * 1000 >= 2**63:
        raise ValueError(f"{text!r} is not a duration such as 300ms, 1.5h or 2h45m")
    return sign * timedelta(microseconds=int(total))


def _read_time(value: Any) -> Any:
    return parse_time(value) if isinstance(value, str) else value


WireTime = Annotated[
    datetime,
    BeforeValidator(_read_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339 with a numeric offset and at most milliseconds.",
            "examples": ["2024-11-18T04:25:32.07+00:00"],
        }
    ),
]
"""An aware `datetime` in Python; on the wire the text of `format_time`."""
