"""Removes trees, however deep, also where programs left folders that nobody may write to."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from knit_workflows.archive.file_kinds import LOST_AND_FOUND
from knit_workflows.archive.folder_stack import FolderStack, bottom_up, folder_at, opened_folder

_ALL = 0o700
_HANDLE = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clear(folder: int) -> None:
    """Removes everything in the folder (a descriptor) but `lost+found`; again is fine.

    Several may do it at once. What cannot be removed stays, and all else goes.

    Raises:
        OSError: something could not be removed; the first of the reasons.
    """
    _Removal(folder, keep=LOST_AND_FOUND).run()


def remove(path: Path) -> None:
    """Removes the folder with all that is in it, as `clear` does; fine if there is none."""
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

    def _enter(self, descent: FolderStack[str], name: str) -> bool:
        if name == self._keep and not descent.names:
            return False
        try:
            _make_usable(descent.here, name)
            descent.enter(name)
            self._remove_files(descent.here, descent.names)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._failed(error, [*descent.names, name])
            return False
        return True

    def _leave(self, descent: FolderStack[str]) -> None:
        name = descent.names[-1]
        descent.leave()
        try:
            os.rmdir(name, dir_fd=descent.here)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(error, [*descent.names, name])

    def _remove_files(self, folder: int, above: list[str]) -> None:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
        for name in found:
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._failed(error, [*above, name])

    def _failed(self, error: OSError, path: list[str]) -> None:
        # Later ones follow from it: a folder that is not empty, because a file could not go.
        if self._failure is None:
            error.filename = "/".join(path)
            self._failure = error


def _make_usable(parent: int, name: str) -> None:
    """Lets us list and change the folder of that name, if it is ours."""
    handle = os.open(name, _HANDLE, dir_fd=parent)
    try:
        mode = os.fstat(handle).st_mode
        if mode & _ALL != _ALL:
            with suppress(PermissionError):
                _change_mode(handle, mode & 0o7777 | _ALL)
    finally:
        os.close(handle)


def _change_mode(handle: int, mode: int) -> None:
    if hasattr(os, "O_PATH"):  # fchmod refuses such a handle; this leads to what it stands for
        Path(f"/proc/self/fd/{handle}").chmod(mode)
    else:
        os.fchmod(handle, mode)
