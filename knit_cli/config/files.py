"""Writes small files of the user atomically, one writer at a time."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PAUSE: Final = 0.05
_ATTEMPTS: Final = 40


def write_private(path: Path, text: str) -> None:
    """Replaces a file atomically; it is readable by its owner only.

    Missing parent folders are created for the owner only. A symbolic link is followed, so that a
    file kept elsewhere stays there.

    Raises:
        OSError: the file or a folder cannot be written.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates with mode 0600: the text is never readable by others, even for a moment.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        # Names of folders need not be UTF-8.
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _replace(Path(temporary), target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Holds a lock for the path during the block, after waiting for other processes.

    The lock is on a file beside it, which stays, because every write replaces the file. It is
    released when the process ends, however it ends.

    Raises:
        OSError: the lock file cannot be opened.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _wait_for_lock(lock)
        yield
    finally:
        os.close(lock)


def _wait_for_lock(descriptor: int) -> None:
    """Locks an open file for this process alone, until it is closed."""
    if sys.platform == "win32":
        import msvcrt

        # Its own way to wait gives up after ten seconds, and a login may take longer. The byte that
        # is locked need not exist.
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError as cause:
                if cause.errno not in (errno.EACCES, errno.EDEADLK):
                    raise
                time.sleep(_PAUSE)
            else:
                return
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _replace(temporary: Path, target: Path) -> None:
    """Replaces a file; on Windows that is refused for as long as another process reads it."""
    for attempt in range(_ATTEMPTS):
        try:
            temporary.replace(target)
        except PermissionError:
            if sys.platform != "win32" or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE)
        else:
            return
