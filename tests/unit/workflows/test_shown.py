"""What Temporal shows of a workflow fits into what every server takes, whatever people write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.contrib.pydantic import pydantic_data_converter

from knit_workflows.contracts import shown

MOST_OF_A_SUMMARY = 400
MOST_OF_DETAILS = 20_000


def payload_bytes(text: str) -> int:
    """How large a text is on its way to the server."""
    [payload] = pydantic_data_converter.payload_converter.to_payloads([text])
    return payload.ByteSize()


@pytest.mark.parametrize("one", ["a", "é", "漢", "🦊", '"', "\\", "\n", "\x01", "\ud800"])
def test_whatever_is_said_fits(one: str) -> None:
    assert payload_bytes(shown.summary(one * 5000)) <= MOST_OF_A_SUMMARY
    assert payload_bytes(shown.details(one * 50_000)) <= MOST_OF_DETAILS


@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_a_cut_is_between_two_characters(text: str) -> None:
    said = shown.summary(text)
    assert "".join(c if c.isprintable() else " " for c in " ".join(text.split())).startswith(said)
    assert len(said.encode()) <= shown.SUMMARY_BYTES
    assert "\n" not in said


def test_what_fits_stays_as_it_is() -> None:
    assert (
        shown.summary("host/sh:1: sh -c 'echo ä' ← 2 Data") == "host/sh:1: sh -c 'echo ä' ← 2 Data"
    )
    assert shown.details("one\n\n* two") == "one\n\n* two"


def test_a_keyword_has_as_many_characters_as_postgres_keeps() -> None:
    assert shown.keyword("é" * 300) == "é" * 255
    assert shown.keyword("short") == "short"
