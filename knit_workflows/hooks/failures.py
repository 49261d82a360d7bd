"""Why a call has failed, in words that say what to do."""

from __future__ import annotations

from pathlib import Path


class CallFailed(Exception):
    """A call has failed; the message says why. `status_code` is that of the answer, if any."""

    def __init__(self, text: str, status_code: int | None = None) -> None:
        self.text = text
        self.status_code = status_code
        super().__init__(text)


def unreadable(what: str, path: Path, error: OSError) -> CallFailed:
    """Says that a file the call needs cannot be read."""
    return CallFailed(f"{what} {path} cannot be read by the hooks worker: {error.strerror}")


def one_line(text: str) -> str:
    """Makes one line of text from elsewhere, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
