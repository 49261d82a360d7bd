"""Decides which kinds of files can be Data, and which are left out of archives."""

from __future__ import annotations

import os
import stat

LOST_AND_FOUND = "lost+found"
"""Created by mkfs at the top of a disk; it belongs to the file system and is never Data."""
MKFS_FOLDER = "folder of the file system"
"""The kind reported for a folder of that name at the top of anything else."""

_LEFT_OUT = {
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_CAN_BE_DATA = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)


def left_out_kind(mode: int) -> str | None:
    """Names the kind of a file with this `st_mode` that cannot be Data; None if it can.

    Files, folders, links and named pipes can. A socket is meaningless without its process, a device
    without its machine.
    """
    kind = stat.S_IFMT(mode)
    return None if kind in _CAN_BE_DATA else _LEFT_OUT.get(kind, "special file")


def is_top_of_file_system(folder: int) -> bool:
    """Says whether `lost+found` in this folder (a descriptor) can be mkfs's; True if unknown.

    In any other folder it is left out, since no volume could tell it from its own.
    """
    try:
        above = os.stat("..", dir_fd=folder)
    except PermissionError:
        return True
    here = os.fstat(folder)
    return above.st_dev != here.st_dev or above.st_ino == here.st_ino
