"""Makes what was written outlast a power cut."""

from __future__ import annotations

import ctypes
import errno
import os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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
    with os.scandir(folder) as entries:
        children = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in children:
        child = os.open(name, _FOLDER, dir_fd=folder)
        try:
            sync_folders(child)
        finally:
            os.close(child)
    os.fsync(folder)
