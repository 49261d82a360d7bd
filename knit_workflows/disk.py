"""Disks that run full: how much room is left, what to say about it, and a reserve."""

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
"""What the system says when there is no room, or no more of it for this user."""
ALMOST_FULL: Final = 4 << 20
"""With less than this a database cannot be expected to write, nor to start."""
RESERVE_BYTES: Final = 64 << 20
"""How large the reserve of the embedded stack is."""
_SHARE: Final = 20
"""Floor and reserve take a twentieth of a disk at most, however small it is."""
_SLICES: Final = 8
_LEAST_SLICE: Final = 1 << 20
_MAKE_ROOM: Final = (
    "make room there: delete Runs that are not needed with `knit run rm`, or what else fills it"
)


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """How much room the disk of a folder has, in bytes, for somebody who is not root."""

    folder: Path
    free: int
    total: int

    @classmethod
    def of(cls, folder: Path) -> DiskSpace:
        """Measures it. A folder that is not there counts as its nearest ancestor."""
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
        """Gives what of these bytes it is fit to keep back on a disk of this size."""
        return min(wanted, self.total // _SHARE)

    @property
    def is_almost_full(self) -> bool:
        """Whether programs that write a little now and then begin to fail."""
        return self.free < ALMOST_FULL

    @classmethod
    def if_almost_full(cls, folder: Path | None) -> DiskSpace | None:
        """Measures it, gives it if it is almost full; None also of a disk that is not known."""
        with suppress(OSError):
            room = None if folder is None else cls.of(folder)
            return room if room is not None and room.is_almost_full else None
        return None

    def left(self) -> str:
        """Says it in words."""
        return f"the disk of {self.folder} has {format_bytes(self.free)} left"


def require_room(folder: Path, floor: int) -> None:
    """Raises StorageFull, in words, while the disk of a folder has less room than the floor."""
    room = DiskSpace.of(folder)
    floor = room.share(floor)
    if room.free < floor:
        raise StorageFull(
            f"{room.left()}, less than the floor of {format_bytes(floor)} below which nothing new "
            "begins",
            advice=f"{_MAKE_ROOM}; it goes on by itself then",
        )


def storage_full(error: OSError, folder: Path | None = None) -> StorageFull:
    """Makes the error for a write that found no room, with disk and file; chain it to its cause."""
    file = os.fsdecode(error.filename) if error.filename else ""
    place = folder or (Path(file) if file else None)
    reason = f"there is no room left ({error.strerror})"
    with suppress(OSError):
        reason = f"{DiskSpace.of(place).left()} ({error.strerror})" if place else reason
    return StorageFull(reason, advice=_MAKE_ROOM, see=file)


def format_bytes(size: int) -> str:
    """Gives a number of bytes as people read it: `12 KiB`, `118 MiB`, `3.4 GiB`."""
    if size < 1 << 20:
        return f"{size >> 10} KiB"
    if size < 1 << 30:
        return f"{size >> 20} MiB"
    return f"{size / (1 << 30):.1f} GiB"


class Reserve:
    """A file whose only content is room; several processes may give it back, slice by slice."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> int:
        """Gives the bytes that are reserved; 0 when there is no file."""
        with suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def fill(self, size: int) -> None:
        """Reserves so much; what is reserved already stays. Raises OSError when it is full."""
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
        """Gives back a slice, an eighth of a whole reserve; gives its bytes, 0 if none is left."""
        try:
            with self._held() as handle:
                before = os.fstat(handle).st_size
                whole = DiskSpace.of(self._path.parent).share(RESERVE_BYTES)
                after = max(0, before - max(whole // _SLICES, _LEAST_SLICE))
                os.ftruncate(handle, after)
                return before - after
        except FileNotFoundError:
            return 0

    @contextmanager
    def _held(self, flags: int = 0) -> Iterator[int]:
        """Opens the file, alone: to shorten it by what is true no more would make it longer, by a
        hole that is no room."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)
