"""Lets one user of this machine pass through folders that are closed to others; for root."""

from __future__ import annotations

import os
import pwd
import stat
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

_ACCESS_LIST: Final = "system.posix_acl_access"
"""The attribute with which Linux keeps a file's access list (`acl(5)`)."""
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, id; ordered by tag, then by id
_VERSION: Final = 2
_NO_ID: Final = 0xFFFFFFFF
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_PASS: Final = 1
"""The permission `x`: whoever has it alone lists nothing."""

_Entries = dict[tuple[int, int], int]
"""Permissions by tag and id."""


class FolderClosed(Exception):
    """A folder is closed to the user, and its file system has no access lists, or is read-only."""


def let_pass(folder: Path, user: str) -> bool:
    """Makes sure that a user can pass through a folder; gives whether it had to be let through.

    Then the folder has got an entry in its access list, for this user and nothing but passage,
    which `setfacl -x u:USER FOLDER` takes back. One that root has made among temporary files lets
    everybody pass instead: such folders live shorter, and not all have access lists.

    Raises:
        FolderClosed: it cannot be let through.
    """
    mode = folder.stat().st_mode
    if mode & stat.S_IXOTH or _may_pass(folder, user):
        return False
    if _is_temporary(folder):
        folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
        return False
    try:
        _admit(folder, pwd.getpwnam(user).pw_uid)
    except OSError as cause:
        raise FolderClosed(str(folder)) from cause
    if not _may_pass(folder, user):
        raise FolderClosed(str(folder))
    return True


def _admit(folder: Path, uid: int) -> None:
    entries = _entries(folder)
    entries[_USER, uid] = entries.get((_USER, uid), 0) | _PASS
    # The most that named users and groups get; without a list, that is what the group has.
    entries[_MASK, _NO_ID] = entries.get((_MASK, _NO_ID), entries[_GROUP, _NO_ID]) | _PASS
    packed = (_ENTRY.pack(tag, entries[tag, one], one) for tag, one in sorted(entries))
    os.setxattr(folder, _ACCESS_LIST, _HEAD.pack(_VERSION) + b"".join(packed))


def _entries(folder: Path) -> _Entries:
    """Gives the folder's access list, or what its mode means as one."""
    if _ACCESS_LIST in os.listxattr(folder):
        content = os.getxattr(folder, _ACCESS_LIST)[_HEAD.size :]
        return {(tag, one): allowed for tag, allowed, one in _ENTRY.iter_unpack(content)}
    mode = folder.stat().st_mode
    shifts = {_OWNER: 6, _GROUP: 3, _OTHERS: 0}
    return {(tag, _NO_ID): mode >> shift & 7 for tag, shift in shifts.items()}


def _is_temporary(folder: Path) -> bool:
    """Says whether this is a folder of ours below one for temporary files."""
    places = (Path(place).resolve() for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"))
    return folder.stat().st_uid == os.geteuid() and any(at in folder.parents for at in places)


def _may_pass(folder: Path, user: str) -> bool:
    """Tries it, since groups and access lists may allow what the mode does not."""
    account = pwd.getpwnam(user)
    tried = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$0"', str(folder)],
        stderr=subprocess.DEVNULL,
        cwd="/",
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
    )
    return tried.returncode == 0
