"""Rows as COPY writes them: read, and written so that they are the same again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.backup.knitfab.copy_text import read_array, read_row, write_row

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(_TEXT | st.none(), min_size=1))
def test_texts_come_back(values: list[str | None]):
    assert list(read_row(write_row(values)[:-1])) == values


@given(st.lists(_TEXT))
def test_arrays_come_back(values: list[str]):
    (field,) = read_row(write_row([tuple(values)])[:-1])
    assert field is not None
    assert read_array(field) == tuple(values)


def test_escapes_of_postgres_are_read():
    assert read_row(rb"a\tb\n\\	\N	\x41\101	\\N") == ("a\tb\n\\", None, "AA", r"\N")
    assert read_row(b"") == ("",)


def test_arrays_as_postgres_writes_them():
    assert read_array("{}") == ()
    assert read_array(r'{python,"-c","a\"b\\c","","NULL",ä}') == (
        "python", "-c", 'a"b\\c', "", "NULL", "ä",
    )  # fmt: skip
    for text in ("", "{", "a", "{a", "{a,}", "{,a}", "{a b,{c}}", "{NULL}", '{"a"b}', '{"a}'):
        with pytest.raises(ValueError, match="is not an array"):
            read_array(text)


def test_values_are_written_as_postgres_reads_them():
    instant = datetime(2024, 1, 2, 3, 4, 5, 678_999, UTC)
    assert write_row([True, False, 5, b"\x01\xff", instant, {"a": "\n"}, None]) == (
        b"t\tf\t5\t\\\\x01ff\t2024-01-02 03:04:05.678+00:00\t" + rb'{"a": "\\n"}' + b"\t\\N\n"
    )
