"""Writes small files of the user whole or not at all, and one writer at a time."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Puts the text at the path, readable by its owner only; a crash leaves the old or the new.

    Missing parent folders are made, for the owner only. A symbolic link is followed, so that a file
    kept elsewhere stays there. The second call replaces the first. Raises OSError.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates with 0600: the text is never readable by others, not even for a moment.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        # Names of folders need not be UTF-8.
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Waits until no other process is in this block for the same path. Raises OSError.

    The lock is a file beside it, which stays: the file itself is replaced by every write. It is let
    go of with the process, however that ends. Windows has no such lock; there it is not waited.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32":
            import fcntl  # not there on Windows

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
