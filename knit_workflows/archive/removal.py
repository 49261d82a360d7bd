"""Deletes trees of any depth, including folders that programs have made read-only."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from knit_workflows.archive.file_kinds import LOST_AND_FOUND
from knit_workflows.archive.folder_stack import FolderStack, bottom_up, folder_at, opened_folder

_ALL = 0o700
_HANDLE = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clear(folder: int) -> None:
    """Deletes everything in the folder (a descriptor) but `lost+found`; may be repeated.

    Several processes may do it at once. What cannot be deleted stays; everything else goes.

    Raises:
        OSError: something could not be deleted; the first error.
    """
    _Removal(folder, keep=LOST_AND_FOUND).run()


def remove(path: Path) -> None:
    """Deletes the folder and its content, as `clear` does; a missing one is fine."""
    with suppress(FileNotFoundError), opened_folder(path.parent) as parent:
        _make_usable(parent, path.name)
        folder = folder_at(parent, [path.name])
        try:
            _Removal(folder, keep=None).run()
        finally:
            os.close(folder)
        os.rmdir(path.name, dir_fd=parent)


class _Removal:
    def __init__(self, root: int, keep: str | None) -> None:
        self._root = root
        self._keep = keep
        self._failure: OSError | None = None

    def run(self) -> None:
        self._remove_files(self._root, [])
        bottom_up(self._root, self._enter, self._leave)
        if self._failure is not None:
            raise self._failure

    def _enter(self, stack: FolderStack[str], name: str) -> bool:
        if name == self._keep and not stack.names:
            return False
        try:
            _make_usable(stack.here, name)
            stack.enter(name)
            self._remove_files(stack.here, stack.names)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._failed(error, [*stack.names, name])
            return False
        return True

    def _leave(self, stack: FolderStack[str]) -> None:
        name = stack.names[-1]
        stack.leave()
        try:
            os.rmdir(name, dir_fd=stack.here)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(error, [*stack.names, name])

    def _remove_files(self, folder: int, above: list[str]) -> None:
        """Removes files as they are found: there may be millions.

        A file system may pass over some while others go, so it looks again.
        """
        while self._removed_some(folder, above):
            pass

    def _removed_some(self, folder: int, above: list[str]) -> bool:
        removed = False
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    continue
                try:
                    os.unlink(entry.name, dir_fd=folder)
                    removed = True
                except FileNotFoundError:
                    pass
                except OSError as error:
                    self._failed(error, [*above, entry.name])
        return removed

    def _failed(self, error: OSError, path: list[str]) -> None:
        # Later errors are consequences: a folder is not empty, because a file could not be deleted.
        if self._failure is None:
            error.filename = "/".join(path)
            self._failure = error


def _make_usable(parent: int, name: str) -> None:
    """Gives us the permission to list and change the folder of that name, if it is ours."""
    handle = os.open(name, _HANDLE, dir_fd=parent)
    try:
        mode = os.fstat(handle).st_mode
        if mode & _ALL != _ALL:
            with suppress(PermissionError):
                _change_mode(handle, mode & 0o7777 | _ALL)
    finally:
        os.close(handle)


def _change_mode(handle: int, mode: int) -> None:
    if hasattr(os, "O_PATH"):  # fchmod refuses such a handle
        Path(f"/proc/self/fd/{handle}").chmod(mode)
    else:
        os.fchmod(handle, mode)
