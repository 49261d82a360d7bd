"""Goes down into folders of any depth, with few descriptors open and without recursion."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, AnyStr, Generic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MAX_OPEN = 32  # of the 1,024 descriptors that a process usually has, for all its transfers


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Gives a descriptor of an existing folder; the path itself may be a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def identity(info: os.stat_result) -> tuple[int, int]:
    """Identifies a file among all files of this machine."""
    return info.st_dev, info.st_ino


class FolderStack(Generic[AnyStr]):
    """The folders from a root to the current one; steps use descriptors, so no link leads outside.

    Only the last few folders are open. The others are opened again on the way back, and are then
    checked by their identity: it is an error if somebody moved a folder meanwhile.
    """

    def __init__(self, root: int, flags: int = FOLDER_FLAGS) -> None:
        """`root` is a descriptor and stays the caller's to close; `flags` open the folders."""
        self.names: list[AnyStr] = []
        self._root = root
        self._flags = flags
        self._open: list[int] = []  # the last ones of the path
        self._closed: list[tuple[int, int]] = []  # the identities of those before

    @property
    def here(self) -> int:
        """The descriptor of the current folder, valid until the next step."""
        return self._open[-1] if self._open else self._root

    def enter(self, name: AnyStr) -> None:
        """Enters a subfolder; raises OSError."""
        self._open.append(os.open(name, self._flags, dir_fd=self.here))
        self.names.append(name)
        if len(self._open) > _MAX_OPEN:
            oldest = self._open.pop(0)
            self._closed.append(identity(os.fstat(oldest)))
            os.close(oldest)

    def leave(self) -> None:
        """Goes back to the parent."""
        self.leave_to(len(self.names) - 1)

    def leave_to(self, depth: int) -> None:
        """Goes back until the path has `depth` names; raises OSError."""
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
            os.close(above)  # it was entered through a link
        found = folder_at(self._root, self.names[:depth], self._flags)
        if identity(os.fstat(found)) != wanted:
            os.close(found)
            raise OSError(errno.ESTALE, "a folder was moved meanwhile")
        return found


def folder_at(root: int, names: Sequence[str | bytes], flags: int = FOLDER_FLAGS) -> int:
    """Opens the folder that these names, one below the other, lead to."""
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
        enter: enters the subfolder of that name; returns False if it does not.
        leave: leaves a folder whose subfolders have all been visited.
    """
    stack: FolderStack[str] = FolderStack(root)
    waiting = [_folders(root)]
    try:
        while True:
            if waiting[-1]:
                if enter(stack, waiting[-1].pop()):
                    waiting.append(_folders(stack.here))
            elif len(waiting) == 1:
                return
            else:
                waiting.pop()
                leave(stack)
    finally:
        stack.close()


def _folders(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
