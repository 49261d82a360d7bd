"""Staging folders: what is being pulled lies there until it is complete.

A killed process cleans up nothing. So each staging folder contains a file that its process keeps
locked; if nobody holds the lock, the folder is a leftover, and the next pull removes it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from knit_cli.signals import endings_deferred
from knit_workflows import archive

_PREFIX, _SUFFIX = ".knit-pull.", ".part"
_NAME = re.compile(r"\.knit-pull\.[a-z0-9_]{8}\.part")
_HELD = "held-by-knit-data-pull"
"""Its lock shows that the pull is alive, its name that the folder is ours."""
_WORK = "work"
_OPEN = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def staging_area(folder: Path) -> Iterator[Path]:
    """Yields a free path on the same disk as `folder`; what is left there is removed at the end.

    `folder` is created if missing, and leftovers of killed pulls in it are removed.

    Raises:
        OSError: a folder cannot be created or read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    made: tuple[Path, int] | None = None
    try:
        # Made but not yet known here, it would be left by a program that is told to end.
        with endings_deferred():
            made = _made(folder)
        staging, _ = made
        (staging / _WORK).mkdir()
        yield staging / _WORK / "content"
    finally:
        if made is not None:
            with endings_deferred():
                _remove_and_close(*made)


def move_into_place(arrived: Path, target: Path) -> None:
    """Renames something complete to its final name, durably.

    A file replaces another file, a folder only an empty folder. The content must have been synced.

    Raises:
        OSError: it cannot be renamed.
    """
    arrived.replace(target)
    with suppress(OSError):  # not supported for folders by every file system
        sync(target.parent)


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made(folder: Path) -> tuple[Path, int]:
    """Creates a staging folder and locks it; retries if somebody removed it as a leftover."""
    while True:
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=_PREFIX, suffix=_SUFFIX))
        try:
            lock = os.open(staging / _HELD, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue
        if _locked(lock) is not False and _is_at(lock, staging / _HELD):
            return staging, lock
        os.close(lock)


def _remove_leftovers(folder: Path) -> None:
    """Removes leftovers of killed pulls in the folder, and nothing else."""
    with os.scandir(folder) as entries:
        found = [
            Path(entry.path)
            for entry in entries
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    for staging in found:
        with suppress(OSError):
            _remove_if_left(staging)


def _remove_if_left(staging: Path) -> None:
    try:
        lock = os.open(staging / _HELD, _OPEN)
    except FileNotFoundError:
        staging.rmdir()  # killed between two steps; OSError if it is not empty, hence not ours
        return
    try:
        if _locked(lock):
            _remove(staging)
    finally:
        os.close(lock)


def _remove(staging: Path) -> None:
    """Removes a staging folder, the lock last, so that after a kill it is a leftover again."""
    with suppress(FileNotFoundError):
        archive.clear(staging / _WORK)
        (staging / _WORK).rmdir()
    (staging / _HELD).unlink()
    staging.rmdir()


def _remove_and_close(staging: Path, lock: int) -> None:
    with suppress(OSError):
        _remove(staging)
    os.close(lock)  # last, so that nobody else removes it meanwhile


def _locked(descriptor: int) -> bool | None:
    """Tries to lock; None: the platform or file system has no locks."""
    if sys.platform == "win32":
        return None
    import fcntl  # not available on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
