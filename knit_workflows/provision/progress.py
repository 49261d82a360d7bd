"""Shows the progress of something slow on stderr."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final, Self, TextIO

_ON_TERMINAL: Final = 0.5
_ELSEWHERE: Final = 15.0
"""Seconds between two updates."""


class Progress:
    """A context manager that shows progress until it exits.

    On a terminal it updates one line; elsewhere (a log) it writes a line every 15 seconds.

    Args:
        title: what is in progress, such as `building Temporal with Go`.
        expected: how long it takes, shown at the start.
        quiet: show only the first line.
        stream: where to write; stderr if not given.
    """

    def __init__(
        self, title: str, expected: str, *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.state = ""
        """The current state in a few words; may be set from any thread."""
        self._title = title
        self._expected = expected
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._begun = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._write(f"{self._title} ({self._expected}) ...\n")
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if not self._quiet:
            self._thread.join()
            if self._on_terminal:
                self._write("\r\x1b[K")

    def _show(self) -> None:
        while not self._over.wait(_ON_TERMINAL if self._on_terminal else _ELSEWHERE):
            seconds = int(time.monotonic() - self._begun)
            state = f"{self.state}, " if self.state else ""
            line = f"{self._title}: {state}{seconds // 60}:{seconds % 60:02}"
            self._write(f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal may have been closed; the work continues
            self._over.set()
