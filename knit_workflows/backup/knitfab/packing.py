"""Files of gzip that are on the disk once they are written."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LEVEL: Final = 1


@contextmanager
def packed(path: Path) -> Iterator[gzip.GzipFile]:
    """Writes a file of gzip, which is on the disk at the end."""
    with path.open("wb") as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, filename="") as writing:
            yield writing
        file.flush()
        os.fsync(file.fileno())
