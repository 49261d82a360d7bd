"""Clocks that can be put wrong while a process runs, by a library that is loaded before all others.

It is compiled here (libfaketime is not on every machine); without a C compiler clocks stay right.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """One clock per process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "clock.so"
        compiler = shutil.which("cc")
        if compiler is not None:
            command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(_SOURCE)]
            subprocess.run(command, check=True, timeout=120)

    @property
    def there(self) -> bool:
        """Whether clocks can be put wrong here."""
        return self._library.exists()

    def environment(self, name: str) -> dict[str, str]:
        """Gives what a process needs in its environment to have a clock of this name."""
        if not self.there:
            return {}
        self.shift(name, 0)
        return {"LD_PRELOAD": str(self._library), "KNIT_TEST_CLOCK": str(self._file(name))}

    def shift(self, name: str, seconds: int) -> None:
        """Puts a clock ahead by so many seconds, or behind; 0: it is right."""
        with self._file(name).open("r+b" if self._file(name).exists() else "wb") as file:
            file.write(struct.pack("l", seconds))

    def _file(self, name: str) -> Path:
        return self._folder / f"clock-{name}"
