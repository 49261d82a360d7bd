"""The statements, as named SQL: beside each module its `.sql`, `-- name: x` before each statement.

They are written for psycopg (`%(name)s`). `now` everywhere is
`date_trunc('milliseconds', clock_timestamp())`: the precision that is shown, and the time *after*
a row lock was waited for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def beside(module_file: str) -> Mapping[str, str]:
    """Reads the statements of the `.sql` beside a module (its `__file__`), by name."""
    text = Path(module_file).with_suffix(".sql").read_text(encoding="utf-8")
    _, *parts = _HEADER.split(text)
    return dict(zip(parts[::2], (body.strip() for body in parts[1::2]), strict=True))
