"""Makes written files durable, so that they survive a power cut."""

from __future__ import annotations

import ctypes
import errno
import os

from knit_workflows.archive.file_kinds import LOST_AND_FOUND
from knit_workflows.archive.folder_stack import FolderStack, bottom_up

_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(descriptor: int) -> None:
    """Syncs the whole file system of the descriptor, names included.

    Unlike `os.sync`, this does not wait for *all* file systems of the node, such as a dead network
    mount, and it reports errors. Without `syncfs` (macOS, some sandboxes) it is `os.sync`.

    Raises:
        OSError: something could not be written (disk full, quota, I/O error).
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
    """Fsyncs the folder and all folders below it, for the names in them; not the files' content.

    Without `lost+found` at the top, which may be closed to us, and where nothing was written.
    """

    def enter(stack: FolderStack[str], name: str) -> bool:
        if name == LOST_AND_FOUND and not stack.names:
            return False
        stack.enter(name)
        return True

    def leave(stack: FolderStack[str]) -> None:
        os.fsync(stack.here)
        stack.leave()

    bottom_up(folder, enter, leave)
    os.fsync(folder)
