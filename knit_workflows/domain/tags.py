"""Tags: `key:value` pairs on Data and on a Plan's mountpoints, and the system tags among them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from knit_workflows.domain.errors import InvalidTag

SYSTEM_PREFIX: Final = "knit#"
KEY_ID: Final = "knit#id"
KEY_TIMESTAMP: Final = "knit#timestamp"
KEY_TRANSIENT: Final = "knit#transient"
TRANSIENT_PROCESSING: Final = "processing"
TRANSIENT_FAILED: Final = "failed"
MAX_KEY_CHARS: Final = 1024
MAX_VALUE_CHARS: Final = 1_048_576


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """One pair; ordered by key, then value. A set of them describes a Data or a mountpoint."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}:{self.value}"

    @property
    def is_system(self) -> bool:
        """Whether knit itself gives this tag; users never add or remove such a tag."""
        return self.key.startswith(SYSTEM_PREFIX)


def parse_tag(text: str) -> Tag:
    """Reads `key:value`: split at the first colon, white space around both parts trimmed.

    Raises InvalidTag when the colon is missing, a part is too long or holds control characters.
    """
    key, colon, value = text.partition(":")
    if not colon:
        raise InvalidTag(
            f"the tag {text!r} has no ':'", advice="write a tag as key:value, e.g. type:dataset"
        )
    return checked_tag(key.strip(), value.strip())


def checked_tag(key: str, value: str) -> Tag:
    """Makes a tag of parts taken as they are; raises InvalidTag as `parse_tag` does."""
    if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
        raise InvalidTag(
            f"the tag with the key {key[:40]!r} is too long",
            advice=f"a key has at most {MAX_KEY_CHARS}, a value {MAX_VALUE_CHARS} characters",
        )
    if any(ord(c) < 32 or ord(c) == 127 for c in key + value):
        raise InvalidTag(
            f"the tag {key[:40]!r} holds a control character",
            advice="remove line breaks, tabs and other control characters from the tag",
        )
    return Tag(key, value)


def parse_instant(text: str) -> datetime:
    """Reads an RFC 3339 instant, e.g. `2024-11-18T04:25:32.07+00:00`; aware, in UTC.

    Raises InvalidTag when it is none, or has no zone.
    """
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise InvalidTag(
                f"the time {text!r} has no zone", advice="end it with Z or an offset such as +09:00"
            )
        return instant.astimezone(UTC)
    except (ValueError, OverflowError) as cause:
        raise InvalidTag(
            f"{text!r} is not an RFC 3339 time", advice="write 2024-11-18T04:25:32+00:00"
        ) from cause


def format_instant(instant: datetime) -> str:
    """Writes an instant as every knit surface shows it: RFC 3339, numeric offset, ≤ 3 digits."""
    utc = instant.astimezone(UTC)
    millis = utc.microsecond // 1000
    fraction = f".{millis:03d}".rstrip("0") if millis else ""
    return f"{utc.year:04}-{utc:%m-%dT%H:%M:%S}{fraction}+00:00"
