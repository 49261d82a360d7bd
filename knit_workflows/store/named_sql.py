"""Named SQL: beside each module stands its `.sql`, with `-- name: x` before each statement.

Statements are written for psycopg (`%(name)s`). Where one says `/*name*/`, the part of that name
goes: another statement of the file, or one that the module brings along, when the file is loaded;
the others, such as the conditions of a search, by `filled`. The current time is everywhere
`date_trunc('milliseconds', clock_timestamp())`: the precision that is shown, and the time *after*
waiting for a row lock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PART = re.compile(r"/\*(\w+)\*/")


def beside(module_file: str, **parts: str) -> Mapping[str, str]:
    """Reads the statements of the `.sql` beside a module (its `__file__`), by name."""
    text = Path(module_file).with_suffix(".sql").read_text(encoding="utf-8")
    _, *named = _HEADER.split(text)
    statements = dict(zip(named[::2], (body.strip() for body in named[1::2]), strict=True))
    known = statements | parts
    return {
        name: _PART.sub(lambda found: known.get(found[1], found[0]), body)
        for name, body in statements.items()
    }


def filled(statement: str, **parts: str) -> str:
    """Puts these parts into a statement; all that it asks for must be there."""
    return _PART.sub(lambda found: parts[found[1]], statement)
