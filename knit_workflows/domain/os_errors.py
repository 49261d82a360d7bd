"""Messages for errors of the operating system: the reason, and advice for each error number.

One table for everything that uses files, so that the advice fits the error: not "free some space"
if a permission is missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

_REASONS: Final[Mapping[int, str]] = {
    errno.EINVAL: "the file system does not take this",
    errno.ELOOP: "a link leads back to itself",
    errno.ESTALE: "the network file system has lost it",
    errno.ENOTCONN: "the file system is not connected any more",
    errno.EXDEV: "it is on another file system",
    errno.EIO: "the disk reports an error",
}
"""Reasons that are clearer than the system's own."""

_RIGHT: Final = "get the right to it (ls -l shows whose it is), or choose another place"
_OTHER_PLACE: Final = "choose a place on another file system"
_ADVICE: Final[Mapping[int, str]] = {
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EROFS: "the file system is read-only: mount it for writing, or choose another place",
    errno.ENOSPC: "make room on that file system, or choose another place",
    errno.EDQUOT: "make room within your quota, or choose another place",
    errno.EFBIG: f"the file is too large for that file system or your limits: {_OTHER_PLACE}",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file, where a folder is needed: check the path",
    errno.EISDIR: "it is a folder, where a file is needed: check the path",
    errno.EEXIST: "something of that name is there: remove it, or choose another name",
    errno.ENOTEMPTY: "the folder is not empty: empty it, or choose another",
    errno.ELOOP: "remove or mend the link",
    errno.EMLINK: f"there are too many links to it: {_OTHER_PLACE}",
    errno.ENAMETOOLONG: "shorten the name, or use a folder nearer to the root",
    errno.EILSEQ: f"that file system does not take such a name: rename it, or {_OTHER_PLACE}",
    errno.EINVAL: f"check the name for characters that are special there, or {_OTHER_PLACE}",
    errno.EOPNOTSUPP: f"the file system cannot do this: {_OTHER_PLACE}",
    errno.EXDEV: "use paths on one file system",
    errno.ETXTBSY: "the file is a program that runs: end it, then try again",
    errno.EBUSY: "something uses it: end that, then try again",
    errno.EAGAIN: "something uses it: try again in a moment",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then try again",
    errno.ENFILE: "the machine has too many files open: end something, then try again",
    errno.ENOMEM: "free some memory, then try again",
    errno.EIO: "look into the system's log (dmesg), and check the disk",
    errno.ENODEV: "check that the disk or device is there and mounted",
    errno.ENXIO: "check that the disk or device is there and mounted",
    errno.ESTALE: "mount it anew, then try again",
    errno.ENOTCONN: "mount it anew, then try again",
    errno.ETIMEDOUT: "check that the server of that file system answers, then try again",
    errno.EHOSTDOWN: "check that the server of that file system answers, then try again",
    errno.ENOLCK: f"the file system has no locks: {_OTHER_PLACE}",
    errno.ENOEXEC: "it is not a program for this machine: check what it is",
    errno.E2BIG: "use shorter arguments, or put them into a file",
}


def reason_of(error: OSError) -> str:
    """Gives the reason and the file: `Permission denied: /data/x`."""
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    names = (error.filename, error.filename2)
    named = [os.fsdecode(one) for one in names if isinstance(one, str | bytes)]
    return f"{reason}: {' → '.join(named)}" if named else reason


def advice_for(error: OSError, otherwise: str = "check the path and your rights to it") -> str:
    """Gives advice for the error number, or `otherwise`."""
    return _ADVICE.get(error.errno or 0, otherwise)
