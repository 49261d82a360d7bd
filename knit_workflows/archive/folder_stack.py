"""A way down into folders, however deep, with few descriptors open and without recursion."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, AnyStr, Generic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MOST_OPEN = 32  # of the 1,024 descriptors that a process usually has, for all its transfers


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A descriptor of an existing folder; the path itself may be a link, as its giver chooses."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def identity(info: os.stat_result) -> tuple[int, int]:
    """What tells one file from all others of this machine."""
    return info.st_dev, info.st_ino


class FolderStack(Generic[AnyStr]):
    """A position below a root folder. Every step is by descriptor, so no link leads elsewhere.

    Of the folders on the way only the last few are open. The others are opened again on the way
    back, and are then known by their identity: whoever moves a folder meanwhile gets an error.
    """

    def __init__(self, root: int, flags: int = FOLDER_FLAGS) -> None:
        """`root` is a descriptor and stays the caller's to close; `flags` open the folders."""
        self.names: list[AnyStr] = []
        self._root = root
        self._flags = flags
        self._open: list[int] = []  # the last so many of the way
        self._closed: list[tuple[int, int]] = []  # the identities of those before them

    @property
    def here(self) -> int:
        """A descriptor of the folder, good until the next step."""
        return self._open[-1] if self._open else self._root

    def enter(self, name: AnyStr) -> None:
        """Goes into a folder of this folder. Raises OSError."""
        self._open.append(os.open(name, self._flags, dir_fd=self.here))
        self.names.append(name)
        if len(self._open) > _MOST_OPEN:
            oldest = self._open.pop(0)
            self._closed.append(identity(os.fstat(oldest)))
            os.close(oldest)

    def leave(self) -> None:
        """Goes back to the folder above."""
        self.leave_to(len(self.names) - 1)

    def leave_to(self, depth: int) -> None:
        """Goes back so far that the way has `depth` names. Raises OSError."""
        reopened = self._reopened(depth) if 0 < depth <= len(self._closed) else None
        while len(self.names) > max(depth, len(self._closed)):
            self.names.pop()
            os.close(self._open.pop())
        del self.names[depth:]
        if reopened is not None:
            del self._closed[depth - 1 :]
            self._open.append(reopened)
        elif not depth:
            self._closed.clear()

    def close(self) -> None:
        """Closes what is open below the root."""
        self.leave_to(0)

    def _reopened(self, depth: int) -> int:
        wanted = self._closed[depth - 1]
        if depth == len(self.names) - 1:
            above = os.open("..", self._flags, dir_fd=self.here)
            if identity(os.fstat(above)) == wanted:
                return above
            os.close(above)  # we came by a link
        found = folder_at(self._root, self.names[:depth], self._flags)
        if identity(os.fstat(found)) != wanted:
            os.close(found)
            raise OSError(errno.ESTALE, "a folder was moved meanwhile")
        return found


def folder_at(root: int, names: Sequence[str | bytes], flags: int = FOLDER_FLAGS) -> int:
    """A new descriptor of the folder that these names lead to, one below the other."""
    folder = os.dup(root)
    for name in names:
        try:
            child = os.open(name, flags, dir_fd=folder)
        finally:
            os.close(folder)
        folder = child
    return folder


def bottom_up(
    root: int,
    enter: Callable[[FolderStack[str], str], bool],
    leave: Callable[[FolderStack[str]], None],
) -> None:
    """Visits every folder below the root once.

    Args:
        root: a descriptor, the caller's.
        enter: goes into the folder of that name; False if it stays outside.
        leave: is in a folder all of whose folders were visited; has to leave it.
    """
    descent: FolderStack[str] = FolderStack(root)
    waiting = [_folders(root)]
    try:
        while True:
            if waiting[-1]:
                if enter(descent, waiting[-1].pop()):
                    waiting.append(_folders(descent.here))
            elif len(waiting) == 1:
                return
            else:
                waiting.pop()
                leave(descent)
    finally:
        descent.close()


def _folders(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
