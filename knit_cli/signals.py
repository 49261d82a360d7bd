"""Lets a signal end the program as Ctrl-C does: everything under way cleans up after itself."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")  # Windows has not all
_WORDS = {"SIGTERM": "terminated", "SIGHUP": "hung up"}


def end_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit in the main thread, with 128 + their number.

    One that is ignored, as under nohup, stays so. A second one does not disturb the clean-up.
    """
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def ended_by(code: object) -> str | None:
    """Gives what the user is told of an exit code that `end_on_signals` has made, else None."""
    for name, words in _WORDS.items():
        if code == 128 + getattr(signal, name, 0):
            return words
    return None


def _end(number: int, _: FrameType | None) -> None:
    for name in _ENDING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.exit(128 + number)
