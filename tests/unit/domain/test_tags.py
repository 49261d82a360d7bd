from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.errors import InvalidTag
from knit_workflows.domain.tags import (
    KEY_TIMESTAMP,
    Tag,
    checked_tag,
    parse_tag,
    parse_timestamp,
    storable_tag,
    timestamp_tag,
)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("type:dataset", "type", "dataset"),
        ("a:b:c", "a", "b:c"),
        (" type : dataset ", "type", "dataset"),
        ("\u3000type\u3000:\u3000dataset\u3000", "type", "dataset"),
        ("two words:and more", "two words", "and more"),
        (":", "", ""),
        (":value", "", "value"),
        ("key:", "key", ""),
        ("Type:Dataset", "Type", "Dataset"),
        ('quoted:"a\\b"', "quoted", '"a\\b"'),
        ("種類:データ", "種類", "データ"),
    ],
)
def test_text_is_split_at_the_first_colon_and_trimmed(text: str, key: str, value: str) -> None:
    assert parse_tag(text) == Tag(key, value)


@pytest.mark.parametrize("text", ["", "type", "type=dataset"])
def test_a_tag_has_a_colon(text: str) -> None:
    with pytest.raises(InvalidTag, match="':'") as caught:
        parse_tag(text)
    assert "key:value" in caught.value.advice


@pytest.mark.parametrize("char", ["\0", "\n", "\t", "\x1f", "\x7f"])
def test_control_characters_are_refused(char: str) -> None:
    for key, value in ((f"a{char}b", "v"), ("k", f"a{char}b")):
        with pytest.raises(InvalidTag, match="control"):
            checked_tag(key, value)
        with pytest.raises(InvalidTag, match="control"):
            parse_tag(f"{key}:{value}")


def test_keys_and_values_have_a_greatest_length() -> None:
    assert checked_tag("k" * 1024, "v" * 1_048_576).key == "k" * 1024
    for key, value in (("k" * 1025, "v"), ("k", "v" * 1_048_577)):
        with pytest.raises(InvalidTag, match="too long"):
            checked_tag(key, value)


def test_parts_of_an_object_are_taken_as_they_are() -> None:
    assert checked_tag(" k:1 ", " v ") == Tag(" k:1 ", " v ")


@pytest.mark.parametrize("blank", [" ", "\u3000", "\xa0", "\u2028", "\x85", " \u2003"])
def test_blanks_do_not_make_a_tag_of_knits_own_a_users(blank: str) -> None:
    """It is shown as `key:value`, and who reads that trims it."""
    key = f"{blank}knit#transient"
    for one in (key, f"{key}{blank}"):
        with pytest.raises(InvalidTag, match="one of knit's own") as caught:
            checked_tag(one, "failed")
        assert caught.value.advice
    assert storable_tag(key, "failed") == Tag(key, "failed")
    assert parse_tag(f"{key}:failed").is_system
    assert checked_tag(f"{blank}x{blank}", "v").key == f"{blank}x{blank}"
    assert checked_tag(f"x {key}", "v")


@pytest.mark.parametrize(
    ("key", "system"),
    [
        ("knit#id", True),
        ("knit#", True),
        ("knit#x", True),
        ("knit", False),
        ("Knit#id", False),
        (" knit#id", False),
    ],
)
def test_keys_beginning_with_knit_hash_are_reserved(key: str, system: bool) -> None:
    assert Tag(key, "x").is_system is system


def test_tags_are_ordered_by_key_then_value_and_collapse_in_sets() -> None:
    tags = [Tag("b", "1"), Tag("a", "2"), Tag("a", "1"), Tag("a", "2")]
    assert sorted(set(tags)) == [Tag("a", "1"), Tag("a", "2"), Tag("b", "1")]


@given(st.text(), st.text())
def test_a_tag_survives_its_text(key: str, value: str) -> None:
    try:
        tag = parse_tag(f"{key}:{value}")
    except InvalidTag:
        return
    assert parse_tag(str(tag)) == tag


@pytest.mark.parametrize(
    "text",
    [
        "2024-11-18T04:25:32.07+00:00",
        "2024-11-18T04:25:32.070Z",
        "2024-11-18T13:25:32.07+09:00",
        "2024-11-17T23:25:32.070999-05:00",
    ],
)
def test_one_instant_has_many_texts(text: str) -> None:
    instant = parse_timestamp(text)
    assert instant == datetime(2024, 11, 18, 4, 25, 32, 70_000, UTC)
    assert instant.tzinfo is UTC
    assert timestamp_tag(instant) == Tag(KEY_TIMESTAMP, "2024-11-18T04:25:32.07+00:00")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2024-11-18",
        "2024-11-18T04:25:32",
        "2024-13-01T00:00:00Z",
        "0001-01-01T00:00:00+09:00",
    ],
)
def test_an_instant_without_a_zone_is_none(text: str) -> None:
    with pytest.raises(InvalidTag) as caught:
        parse_timestamp(text)
    assert caught.value.advice


def test_a_timestamp_is_written_in_utc() -> None:
    east = datetime(2024, 1, 2, 3, 4, 5, 999, timezone(timedelta(hours=9)))
    assert timestamp_tag(east).value == "2024-01-01T18:04:05+00:00"
