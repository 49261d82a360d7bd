"""Makes signals end the program as Ctrl-C does, with all clean-up."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")  # Windows has not all
_MESSAGES = {"SIGTERM": "terminated", "SIGHUP": "hung up"}


def end_on_signals() -> None:
    """Makes SIGTERM and SIGHUP raise SystemExit(128 + N) in the main thread.

    An ignored signal stays ignored, as under nohup. A second one does not interrupt the clean-up.
    """
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def ended_by(code: object) -> str | None:
    """Names the signal behind an exit code of `end_on_signals`; None for other codes."""
    for name, message in _MESSAGES.items():
        if code == 128 + getattr(signal, name, 0):
            return message
    return None


def _end(number: int, _: FrameType | None) -> None:
    for name in _ENDING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.exit(128 + number)
