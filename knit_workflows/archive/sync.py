"""Makes what was written outlast a power cut."""

from __future__ import annotations

import ctypes
import errno
import os

from knit_workflows.archive.folder_stack import FolderStack, bottom_up

_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(descriptor: int) -> None:
    """Writes back everything of the file system the descriptor lies on, names included.

    Not `os.sync`, which waits for *all* file systems of the node, a dead network mount among them,
    and tells nobody of errors. Where there is no `syncfs` (macOS, some sandboxes) `os.sync` must
    do.

    Raises:
        OSError: something of it could not be written (disk full, quota, I/O error).
    """
    try:
        result = _libc.syncfs(descriptor)
    except AttributeError:
        os.sync()
        return
    if result == -1:
        code = ctypes.get_errno()
        if code != errno.ENOSYS:
            raise OSError(code, os.strerror(code))
        os.sync()


def sync_folders(folder: int) -> None:
    """Fsyncs the folder and all below it, so that the names in them last; not files' content."""

    def enter(descent: FolderStack[str], name: str) -> bool:
        descent.enter(name)
        return True

    def leave(descent: FolderStack[str]) -> None:
        os.fsync(descent.here)
        descent.leave()

    bottom_up(folder, enter, leave)
    os.fsync(folder)
