"""Rows as PostgreSQL's COPY writes them, and the text of arrays in them.

https://www.postgresql.org/docs/current/sql-copy.html, "Text Format";
https://www.postgresql.org/docs/current/arrays.html, "Array Input and Output Syntax".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from knit_workflows.domain.instants import floor_to_millis

_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NEEDS_ESCAPE: Final = re.compile(r"[\\\b\f\n\r\t\v]")
_ESCAPES: Final = {text: f"\\{letter}" for letter, text in _LETTERS.items()} | {"\\": "\\\\"}
_ELEMENT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",{}\\]+)', re.DOTALL)
_NULL: Final = r"\N"

Value = str | int | bool | bytes | datetime | tuple[str, ...] | Mapping[str, object] | list[object]


def read_row(line: bytes) -> tuple[str | None, ...]:
    """Gives the fields of a line without its end; raises ValueError if it is not UTF-8."""
    return tuple(_read_field(field) for field in line.decode().split("\t"))


def _read_field(field: str) -> str | None:
    if field == _NULL:
        return None
    return _ESCAPE.sub(_unescaped, field) if "\\" in field else field


def _unescaped(found: re.Match[str]) -> str:
    what = found[1]
    if what[0] == "x" and len(what) > 1:
        return chr(int(what[1:], 16))
    if what[0] in "01234567":
        return chr(int(what, 8) & 0xFF)
    return _LETTERS.get(what, what)


def read_array(text: str) -> tuple[str, ...]:
    """Reads an array of one dimension, of texts; raises ValueError for anything else."""
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        raise ValueError(f"{text[:60]!r} is not an array")
    found: list[str] = []
    at, end = 1, len(text) - 1
    while at < end:
        element = _ELEMENT.match(text, at, end)
        if element is None or element[2] == "NULL":
            raise ValueError(f"{text[:60]!r} is not an array of texts")
        quoted = element[1]
        found.append(element[2] if quoted is None else re.sub(r"(?s)\\(.)", r"\1", quoted))
        at = element.end()
        if at < end:
            at += 1
            if text[at - 1] != "," or at == end:
                raise ValueError(f"{text[:60]!r} is not an array")
    return tuple(found)


def write_row(values: Iterable[Value | None]) -> bytes:
    """Gives a line; instants are cut to milliseconds, mappings and lists are written as JSON."""
    return "\t".join(map(_written, values)).encode() + b"\n"


def _written(value: Value | None) -> str:
    match value:
        case None:
            return _NULL
        case bool():
            return "t" if value else "f"
        case int():
            return str(value)
        case bytes():
            return rf"\\x{value.hex()}"
        case datetime():
            return floor_to_millis(value).isoformat(" ", "milliseconds")
        case tuple():
            return _escaped(_array(value))
        case str():
            return _escaped(value)
    return _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _NEEDS_ESCAPE.sub(lambda found: _ESCAPES[found[0]], text)


def _array(values: Iterable[str]) -> str:
    quoted = (re.sub(r'(["\\])', r"\\\1", one) for one in values)
    return "{" + ",".join(f'"{one}"' for one in quoted) + "}"
