"""Where what is being pulled lies until all of it is there; nothing of it outlives its pull.

A killed process cleans up nothing. So a workplace has a name of its own and, in it, a file that its
process holds locked for as long as it lives: one that nobody holds is a leftover, and goes.
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

from knit_workflows import archive

_PREFIX, _SUFFIX = ".knit-pull.", ".part"
_NAME = re.compile(r"\.knit-pull\.[a-z0-9_]{8}\.part")
_HELD = "held-by-knit-data-pull"
"""The file whose lock says that the pull is alive; its name, that the folder is ours."""
_WORK = "work"
_OPEN = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def staging_area(folder: Path) -> Iterator[Path]:
    """Gives a path on the disk of `folder` at which nothing is; what is put there is gone after.

    `folder` is made if need be, and what killed pulls have left in it is removed. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    place, lock = _made(folder)
    try:
        (place / _WORK).mkdir()
        yield place / _WORK / "content"
    finally:
        with suppress(OSError):
            _remove(place)
        os.close(lock)  # last: until all is gone, it is not for others to remove


def move_into_place(arrived: Path, target: Path) -> None:
    """Gives something complete its name, for good: the name outlasts a power cut. Raises OSError.

    A file takes the place of another one, a folder only that of an empty one. Its content has
    reached the disk before.
    """
    arrived.replace(target)
    with suppress(OSError):  # not every file system can do it for folders
        sync(target.parent)


def sync(path: Path) -> None:
    """Waits until what is at the path has reached the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made(folder: Path) -> tuple[Path, int]:
    """Makes a workplace and locks it; one that somebody took for a leftover meanwhile is let go."""
    while True:
        place = Path(tempfile.mkdtemp(dir=folder, prefix=_PREFIX, suffix=_SUFFIX))
        try:
            lock = os.open(place / _HELD, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue
        if _locked(lock) is not False and _is_at(lock, place / _HELD):
            return place, lock
        os.close(lock)


def _remove_leftovers(folder: Path) -> None:
    """Removes what pulls into the folder have left that are no more; what is not ours stays."""
    with os.scandir(folder) as entries:
        found = [
            Path(entry.path)
            for entry in entries
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    for place in found:
        with suppress(OSError):
            _remove_if_left(place)


def _remove_if_left(place: Path) -> None:
    try:
        lock = os.open(place / _HELD, _OPEN)
    except FileNotFoundError:
        place.rmdir()  # killed between two steps; an OSError where it is not empty, hence not ours
        return
    try:
        if _locked(lock):
            _remove(place)
    finally:
        os.close(lock)


def _remove(place: Path) -> None:
    """Removes a workplace; the file with the lock last, so that a kill leaves a leftover again."""
    with suppress(FileNotFoundError):
        archive.clear(place / _WORK)
        (place / _WORK).rmdir()
    (place / _HELD).unlink()
    place.rmdir()


def _locked(descriptor: int) -> bool | None:
    """Tries to take the lock, until it is closed or its process ends; None: there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl  # not there on Windows

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
