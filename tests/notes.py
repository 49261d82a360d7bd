"""What a test wants to be read in the log of a whole run, such as a figure.

What it prints is shown only if it fails, and processes of xdist show nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FILE: Final = "KNIT_TEST_NOTES"
"""The variable that names the file; without it notes are printed."""


def note(text: str) -> None:
    """Adds a line."""
    if path := os.environ.get(FILE):
        with Path(path).open("a", encoding="utf-8") as notes:
            notes.write(f"{text.rstrip()}\n")
    else:
        print(text.rstrip())
