"""Decides what of a folder can be Data: the one place that says which kinds are left out."""

from __future__ import annotations

import os
import stat

LOST_AND_FOUND = "lost+found"
"""Made by mkfs at the top of a disk; belongs to the file system and is never Data."""
MKFS_FOLDER = "folder of the file system"
"""What a folder of that name is called that stands at the top of anything else."""

_LEFT_OUT = {
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_CAN_BE_DATA = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)


def left_out_kind(mode: int) -> str | None:
    """The word for what has this `st_mode`, if it cannot go into an archive; None if it can.

    Files, folders, links and named pipes can. A socket is nothing without the process behind it,
    and a device nothing without its machine.
    """
    kind = stat.S_IFMT(mode)
    return None if kind in _CAN_BE_DATA else _LEFT_OUT.get(kind, "special file")


def is_top_of_file_system(folder: int) -> bool:
    """Whether `lost+found` in this folder (a descriptor) can be mkfs's; True where none can tell.

    In any other folder it is left out, since no volume could tell it from its own.
    """
    try:
        above = os.stat("..", dir_fd=folder)
    except PermissionError:
        return True
    here = os.fstat(folder)
    return above.st_dev != here.st_dev or above.st_ino == here.st_ino
