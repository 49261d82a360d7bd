"""Reads the times and durations that users type, more leniently than the API does."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo

from knit_cli.errors import BadInput
from knit_workflows.domain.instants import parse_instant
from knit_workflows.wire.times import parse_duration

_LENIENT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d{1,9})?))?)?)?"
    r"(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)

_DAYS = re.compile(r"(?P<count>\d{1,6})(?P<unit>[dw])", re.ASCII)
_UNITS = {"d": "days", "w": "weeks"}


def read_instant(text: str, flag: str, local: tzinfo | None = None) -> datetime:
    """Reads `YYYY-MM-DD[(T| )HH[:MM[:SS[.frac]]]][Z|±HH:MM]` as an aware instant.

    Missing parts are 0. Without an offset it is local time (`local`, or the machine's).

    Raises:
        BadInput: the text is not such a time; `flag` names where it was given.
    """
    match = _LENIENT.fullmatch(text.strip())
    if match is not None:
        hour, minute, second = (match[part] or "00" for part in ("hour", "minute", "second"))
        try:
            clock = f"{match['date']}T{hour}:{minute}:{second}"
            if match["zone"]:
                return parse_instant(clock + match["zone"])
            naive = parse_instant(f"{clock}Z").replace(tzinfo=None)
            # Without a zone Python takes the machine's, with that day's offset.
            return naive.replace(tzinfo=local) if local else naive.astimezone()
        except (ValueError, OverflowError):
            pass  # such as February 30, or 25 o'clock
    raise BadInput(
        f"{flag} is not a time: {text!r}",
        advice="write it like 2024-11-18, 2024-11-18T04:25 or 2024-11-18T04:25:32+09:00",
    )


def read_age(text: str, flag: str) -> timedelta:
    """Reads an age: `90d`, `2w`, or a Go duration such as `36h`.

    Raises:
        BadInput: the text is no such age; `flag` names where it was given.
    """
    match = _DAYS.fullmatch(text.strip())
    try:
        age = timedelta(**{_UNITS[match["unit"]]: int(match["count"])}) if match else None
        if age is None:
            age = parse_duration(text)
        if age >= timedelta():
            return age
    except (ValueError, OverflowError):
        pass
    raise BadInput(f"{flag} is not an age: {text!r}", advice="write it like 90d, 2w or 36h")


def read_duration(text: str, flag: str) -> timedelta:
    """Reads a Go duration such as `2h45m`.

    Raises:
        BadInput: the text is not such a duration; `flag` names where it was given.
    """
    try:
        return parse_duration(text)
    except ValueError as cause:
        raise BadInput(
            f"{flag} is not a duration: {text!r}", advice="write it like 300ms, 1.5h or 2h45m"
        ) from cause
