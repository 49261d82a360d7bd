"""Makes signals end the program as Ctrl-C does, with all clean-up."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def endings_deferred() -> Iterator[None]:
    """Lets signals that end the program, Ctrl-C too, do so at the end of this block, not within it.

    For what is not undone if it is interrupted between two steps. Other threads than the main one
    are never interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {}
    for name in (*_ENDING, "SIGINT"):
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            handlers[number] = signal.signal(number, lambda one, _: arrived.append(one))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


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
