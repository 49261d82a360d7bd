"""Shows on stderr that something long goes on."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final, Self, TextIO

_ON_TERMINAL: Final = 0.5
_ELSEWHERE: Final = 15.0
"""Seconds between two signs of life."""


class Progress:
    """A context that tells how far something is until it is left.

    On a terminal it is one line that changes; elsewhere (a log) a line every 15 seconds.

    Args:
        title: what goes on, such as `building Temporal with Go`.
        expected: how long it takes, told at the beginning.
        quiet: show that first line only.
        stream: where to write; stderr if not given.
    """

    def __init__(
        self, title: str, expected: str, *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.state = ""
        """How far it is, in a few words; may be set from any thread."""
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
        except (OSError, ValueError):  # the terminal may have been closed; the work goes on
            self._over.set()
