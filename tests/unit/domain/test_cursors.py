"""Cursors as text, and back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from knit_workflows.domain.cursors import Cursor, parse_cursor
from knit_workflows.domain.errors import InvalidRequest

ID = "0f0f0f0f-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    "cursor",
    [Cursor(ID), Cursor(ID, known=False), Cursor(ID, datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))],
)
def test_a_cursor_survives_being_written(cursor: Cursor) -> None:
    assert parse_cursor(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text", ["", ".", "x", f"9{ID}", f"99999999999999999.{ID}", f"-1.{ID}", f"{ID} ", f"1.{ID}\n"]
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a cursor"):
        parse_cursor(text)
