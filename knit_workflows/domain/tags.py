"""Tags: `key:value` pairs on Data and on a Plan's mountpoints, and the system tags among them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from knit_workflows.domain.errors import InvalidTag
from knit_workflows.domain.instants import floor_to_millis, format_instant, parse_instant

SYSTEM_PREFIX: Final = "knit#"
KEY_ID: Final = "knit#id"
KEY_TIMESTAMP: Final = "knit#timestamp"
KEY_TRANSIENT: Final = "knit#transient"
TRANSIENT_PROCESSING: Final = "processing"
TRANSIENT_FAILED: Final = "failed"
TRANSIENT_PURGED: Final = "purged"
TRANSIENT_VALUES: Final = (TRANSIENT_PROCESSING, TRANSIENT_FAILED, TRANSIENT_PURGED)
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
        """Whether only knit may add or remove this tag."""
        return self.key.startswith(SYSTEM_PREFIX)


def parse_tag(text: str) -> Tag:
    """Reads `key:value`: split at the first colon, white space around both parts trimmed.

    Raises:
        InvalidTag: the colon is missing, or a part is too long or has control characters.
    """
    key, colon, value = text.partition(":")
    if not colon:
        raise InvalidTag(
            f"the tag {text!r} has no ':'", advice="write a tag as key:value, e.g. type:dataset"
        )
    return checked_tag(key.strip(), value.strip())


def checked_tag(key: str, value: str) -> Tag:
    """Makes a tag from its parts as they are; raises InvalidTag as `parse_tag` does.

    Nor may blanks before its key be all that tells it from a tag of knit's own: it is shown as
    text, and who reads that trims it.
    """
    tag = storable_tag(key, value)
    if not tag.is_system and Tag(key.strip(), "").is_system:
        raise InvalidTag(
            f"the tag key {key[:40]!r} would be read as one of knit's own",
            advice=f"leave the blanks out; tags that begin with {SYSTEM_PREFIX} are given by knit",
        )
    return tag


def storable_tag(key: str, value: str) -> Tag:
    """Makes a tag that may be kept already, however it came there, such as one to be removed.

    Raises:
        InvalidTag: a part is too long or has control characters.
    """
    if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
        raise InvalidTag(
            f"the tag with the key {key[:40]!r} is too long",
            advice=f"a key has at most {MAX_KEY_CHARS}, a value {MAX_VALUE_CHARS} characters",
        )
    if any(ord(c) < 32 or ord(c) == 127 for c in key + value):
        raise InvalidTag(
            f"the tag {key[:40]!r} has a control character",
            advice="remove line breaks, tabs and other control characters from the tag",
        )
    return Tag(key, value)


def parse_timestamp(text: str) -> datetime:
    """Reads the value of a tag `knit#timestamp`: RFC 3339, cut to milliseconds, in UTC.

    Raises:
        InvalidTag: it is no such time, or has no zone.
    """
    try:
        return floor_to_millis(parse_instant(text))
    except (ValueError, OverflowError) as cause:
        raise InvalidTag(
            f"{text!r} is not an RFC 3339 time",
            advice="write 2024-11-18T04:25:32+09:00, with Z or an offset at its end",
        ) from cause


def timestamp_tag(instant: datetime) -> Tag:
    """Makes the tag `knit#timestamp` of an aware instant, written in UTC."""
    return Tag(KEY_TIMESTAMP, format_instant(instant.astimezone(UTC)))
