"""Stdin, stdout and stderr, even if the process was started without some of them."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final, TextIO

_STDIN: Final = 0
_STDOUT: Final = 1


def open_missing() -> None:
    """Replaces closed streams: using stdin or stdout then fails, and stderr discards.

    Otherwise the next file opened, such as the profile, would get the descriptor of stdout and
    receive the output. Characters that stdout cannot encode become `?`.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # In the wrong direction, so that using it raises an error.
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
    """Flushes stdout and stderr for the last time; returns the error of stdout, if any.

    A stream that cannot be flushed is dropped: Python would retry at exit, and exit with 120.
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
