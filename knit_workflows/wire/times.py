"""Instants (RFC 3339 with a numeric offset) and durations (Go's) as the wire writes them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from knit_workflows.domain.instants import format_instant, parse_instant

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


def parse_duration(text: str) -> timedelta:
    """Gives the length of a Go duration: `300ms`, `1.5h`, `2h45m`, `-3s`, `0`.

    Units are ns, us (or µs), ms, s, m and h. Fractions of a microsecond are cut off.

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
    return parse_instant(value) if isinstance(value, str) else value


WireTime = Annotated[
    datetime,
    BeforeValidator(_read_time),
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339 with a numeric offset and at most milliseconds.",
            "examples": ["2024-11-18T04:25:32.07+00:00"],
        }
    ),
]
"""An aware `datetime` in Python; on the wire the text of `format_instant`."""
