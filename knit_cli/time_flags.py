"""Reads the times and durations people type; what the wire takes is stricter."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from knit_cli.errors import BadInput
from knit_workflows.wire.times import parse_duration

_LOOSE = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<hour>\d\d)"
    r"(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?)?)?"
    r"(?:(?P<utc>[Zz])|(?P<sign>[+-])(?P<offset_hours>\d\d):(?P<offset_minutes>\d\d))?",
    re.ASCII,
)


def read_instant(text: str, flag: str, local: tzinfo | None = None) -> datetime:
    """Gives the aware instant of `YYYY-MM-DD[(T| )HH[:MM[:SS[.frac]]]][Z|±HH:MM]`.

    Missing parts are 0; without a zone it is local time (`local`, or the machine's).

    Raises:
        BadInput: the text is no such time; `flag` names where it was given.
    """
    match = _LOOSE.fullmatch(text.strip())
    if match is not None:
        try:
            return _instant(match, local)
        except (ValueError, OverflowError):
            pass  # such as February 30th, or 25 o'clock: the same message
    raise BadInput(
        f"{flag} is not a time: {text!r}",
        advice="write it like 2024-11-18, 2024-11-18T04:25 or 2024-11-18T04:25:32+09:00",
    )


def _instant(match: re.Match[str], local: tzinfo | None) -> datetime:
    year, month, day = (int(part) for part in match["date"].split("-"))
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    microsecond = int((match["fraction"] or "")[:6].ljust(6, "0"))
    instant = datetime(year, month, day, hour, minute, second, microsecond, UTC)
    if match["utc"]:
        return instant
    if match["sign"]:
        offset = timedelta(hours=int(match["offset_hours"]), minutes=int(match["offset_minutes"]))
        return instant.replace(tzinfo=timezone(-offset if match["sign"] == "-" else offset))
    if local is not None:
        return instant.replace(tzinfo=local)
    # Without a zone Python takes the machine's, with the offset of that very day.
    return instant.replace(tzinfo=None).astimezone()


def read_duration(text: str, flag: str) -> timedelta:
    """Gives the length of a Go duration such as `2h45m`.

    Raises:
        BadInput: the text is no such duration; `flag` names where it was given.
    """
    try:
        return parse_duration(text)
    except ValueError as cause:
        raise BadInput(
            f"{flag} is not a duration: {text!r}", advice="write it like 300ms, 1.5h or 2h45m"
        ) from cause
