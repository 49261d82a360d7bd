"""Stdin, stdout and stderr, also where the process was started without some of them."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final, TextIO

_STDIN: Final = 0
_STDOUT: Final = 1


def open_missing() -> None:
    """Opens those that are closed: reading and writing them fails, talk on stderr goes nowhere.

    Else the next file that is opened, such as the profile, would get the number of stdout, and
    whatever is written there would go into it. What a stream cannot show becomes `?`.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The wrong way round, so that whoever uses it gets an error and not an empty file.
            os.open(os.devnull, os.O_RDONLY if number == _STDOUT else os.O_WRONLY)
    if sys.stdin is None:
        sys.stdin = open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = _writer(_STDOUT)
    if sys.stderr is None:
        sys.stderr = _writer(2)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _writer(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", closefd=False)


def close_quietly() -> OSError | None:
    """Flushes stdout and stderr for the last time; gives why stdout could not take it all.

    What cannot be flushed is forgotten: Python would try it again at its end, and end with 120.
    """
    lost = None
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        lost = error if isinstance(error, OSError) else None
        sys.stdout = None
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None
    return lost
