"""Full disks: how much space is left, the errors that say so, and a reserve."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knit_workflows.domain.errors import StorageFull

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a full disk, and of an exhausted quota."""
ALMOST_FULL: Final = 4 << 20
"""Bytes; with less a database may be unable to write or to start."""
RESERVE_BYTES: Final = 64 << 20
"""Size of the reserve of the embedded stack."""
_SHARE: Final = 20
"""Free space that is demanded or reserved is at most a twentieth of the disk."""
_SLICES: Final = 8
_MIN_SLICE: Final = 1 << 20
_MAKE_ROOM: Final = (
    "make room there: delete Runs that you do not need with `knit run rm`, or other files"
)


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The space on the disk of a folder, in bytes, for users other than root."""

    folder: Path
    free: int
    total: int

    @classmethod
    def of(cls, folder: Path) -> DiskSpace:
        """Measures it; for a missing folder, at its nearest ancestor."""
        while True:
            try:
                info = os.statvfs(folder)
            except FileNotFoundError:
                if folder == folder.parent:
                    raise
                folder = folder.parent
            else:
                return cls(folder, info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize)

    def share(self, wanted: int) -> int:
        """Gives these bytes, but at most a twentieth of the disk."""
        return min(wanted, self.total // _SHARE)

    @property
    def is_almost_full(self) -> bool:
        """Whether programs that write only a little are about to fail."""
        return self.free < ALMOST_FULL

    @classmethod
    def if_almost_full(cls, folder: Path | None) -> DiskSpace | None:
        """Measures it and gives it if it is almost full; None also if the disk is unknown."""
        with suppress(OSError):
            space = None if folder is None else cls.of(folder)
            return space if space is not None and space.is_almost_full else None
        return None

    def left(self) -> str:
        """Formats the free space as a sentence fragment."""
        return f"the disk of {self.folder} has {format_bytes(self.free)} left"


def require_room(folder: Path, min_free_bytes: int) -> None:
    """Raises StorageFull while the disk of a folder has fewer bytes free than `min_free_bytes`."""
    space = DiskSpace.of(folder)
    required = space.share(min_free_bytes)
    if space.free < required:
        raise StorageFull(
            f"{space.left()}, less than the {format_bytes(required)} that new work needs",
            advice=f"{_MAKE_ROOM}; it continues by itself then",
        )


def storage_full(error: OSError, folder: Path | None = None) -> StorageFull:
    """Builds the error for a failed write, with disk and file; raise it `from` its cause."""
    file = os.fsdecode(error.filename) if error.filename else ""
    where = folder or (Path(file) if file else None)
    reason = f"the disk is full ({error.strerror})"
    with suppress(OSError):
        reason = f"{DiskSpace.of(where).left()} ({error.strerror})" if where else reason
    return StorageFull(reason, advice=_MAKE_ROOM, see=file)


def format_bytes(size: int) -> str:
    """Formats a number of bytes for people: `12 KiB`, `118 MiB`, `3.4 GiB`."""
    if size < 1 << 20:
        return f"{size >> 10} KiB"
    if size < 1 << 30:
        return f"{size >> 20} MiB"
    return f"{size / (1 << 30):.1f} GiB"


class Reserve:
    """A file that only reserves disk space; any process may release a slice of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> int:
        """Gives the bytes that are reserved; 0 without a file."""
        with suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def fill(self, size: int) -> None:
        """Reserves up to `size` bytes, unless more are reserved; raises OSError on a full disk."""
        with self._held(os.O_CREAT) as handle:
            before = os.fstat(handle).st_size
            if before >= size:
                return
            try:
                os.posix_fallocate(handle, 0, size)
            except OSError:
                os.ftruncate(handle, before)
                raise

    def give(self) -> int:
        """Releases a slice, an eighth of a whole reserve; gives its bytes, 0 if none is left."""
        try:
            with self._held() as handle:
                before = os.fstat(handle).st_size
                whole = DiskSpace.of(self._path.parent).share(RESERVE_BYTES)
                after = max(0, before - max(whole // _SLICES, _MIN_SLICE))
                os.ftruncate(handle, after)
                return before - after
        except FileNotFoundError:
            return 0

    @contextmanager
    def _held(self, flags: int = 0) -> Iterator[int]:
        """Opens the file exclusively: truncating it to an outdated size could make it longer, by a
        hole that reserves nothing."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)
