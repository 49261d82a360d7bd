from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.instants import (
    epoch_millis,
    floor_to_millis,
    format_instant,
    from_epoch_millis,
    parse_instant,
)


@pytest.mark.parametrize(
    ("microsecond", "fraction"),
    [
        (0, ""),
        (999, ""),
        (1000, ".001"),
        (70_000, ".07"),
        (500_000, ".5"),
        (123_999, ".123"),
        (999_999, ".999"),
    ],
)
def test_at_most_three_digits_without_trailing_zeros(microsecond: int, fraction: str) -> None:
    instant = datetime(2024, 11, 18, 4, 25, 32, microsecond, UTC)
    assert format_instant(instant) == f"2024-11-18T04:25:32{fraction}+00:00"


def test_the_offset_is_numeric_and_kept() -> None:
    west = timezone(-timedelta(hours=3, minutes=30))
    assert format_instant(datetime(2024, 1, 2, 3, 4, 5, tzinfo=west)) == "2024-01-02T03:04:05-03:30"


def test_an_instant_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        format_instant(datetime(2024, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "text",
    [
        "2024-11-18T04:25:32Z",
        "2024-11-18T04:25:32z",
        "2024-11-18t04:25:32.0+00:00",
        "2024-11-18T04:25:32.000000000+00:00",
        "2024-11-18T13:25:32+09:00",
        "2024-11-17T22:55:32-05:30",
    ],
)
def test_strict_times_are_read(text: str) -> None:
    assert parse_instant(text) == datetime(2024, 11, 18, 4, 25, 32, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-11-18",
        "2024-11-18T04:25",
        "2024-11-18 04:25:32Z",
        "2024-11-18T04:25:32",
        "2024-11-18T04:25:32+0000",
        "2024-11-18T04:25:32.+00:00",
        "2024-02-30T00:00:00Z",
        "2024-11-18T24:00:00Z",
        "2024-11-18T04:25:32Z\n",
        "２０２４-11-18T04:25:32Z",
        "2024-11-18T04:25:32+25:00",
    ],
)
def test_loose_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_instant(text)


@given(st.datetimes(timezones=st.timezones()))
def test_what_is_shown_is_the_instant_to_the_millisecond(instant: datetime) -> None:
    offset = instant.utcoffset()
    assert offset is not None
    if offset % timedelta(minutes=1):
        return  # zones of long ago had seconds; knit only writes UTC and today's zones
    shown = parse_instant(format_instant(instant))
    assert timedelta() <= instant - shown < timedelta(milliseconds=1)
    assert format_instant(shown) == format_instant(instant)


@given(st.datetimes(timezones=st.just(UTC)))
def test_milliseconds_since_1970_are_the_instant_rounded_down(instant: datetime) -> None:
    assert from_epoch_millis(epoch_millis(instant)) == floor_to_millis(instant)
    assert timedelta() <= instant - floor_to_millis(instant) < timedelta(milliseconds=1)


def test_an_instant_is_rounded_down_in_utc() -> None:
    east = timezone(timedelta(hours=9))
    floored = floor_to_millis(datetime(2024, 1, 2, 3, 4, 5, 67_999, east))
    assert floored == datetime(2024, 1, 1, 18, 4, 5, 67_000, UTC)
    assert floored.tzinfo is UTC
