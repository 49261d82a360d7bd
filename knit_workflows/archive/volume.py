"""The volume a transfer agent serves: written at most once, and then completely."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from knit_workflows import archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOG_FILE = "log"
"""The one file the nurse writes at the top of a log volume."""

_READ_LOG = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class VolumeNotWritable(Exception):
    """The volume has content already, or is being written to; the message says which."""


class ServedVolume:
    """One folder and the right to write to it, shared by the threads of an agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._writing = threading.Lock()
        self._written = False
        self._closed = False

    def check_writable(self) -> None:
        """Raises VolumeNotWritable if `write` would, so that nobody sends a body in vain."""
        if self._writing.locked():
            raise VolumeNotWritable("another transfer is writing to the volume")
        self._check_empty()

    def write(self, source: archive.Readable) -> archive.Summary:
        """Unpacks a plain tar stream; when it returns, the content is on the disk.

        On any error the volume is empty again, and the next call starts afresh.

        Raises:
            VolumeNotWritable: there was a successful write before, or there is one under way.
            ArchiveRefused, OSError: as `archive.unpack`.
        """
        with self._exclusive():
            self._check_empty()
            summary = archive.unpack(source, self.root, sync=True)
            if self._closed:  # the answer will not arrive, so nobody would know of this content
                archive.clear(self.root)
                raise VolumeNotWritable("the agent is ending")
            self._written = True
            return summary

    def clear(self) -> None:
        """Empties the volume, so that it can be written again. Doing it twice is fine."""
        with self._exclusive():
            archive.clear(self.root)
            self._written = False

    def close(self, seconds: float) -> None:
        """Refuses further writes and waits for one under way to have cleaned up after itself.

        Its source must have been cut before.
        """
        self._closed = True
        self._writing.acquire(timeout=seconds)

    def log(self, *, follow: bool, wait: Callable[[], bool]) -> Iterator[bytes]:
        """The content of all files in name order; with `follow`, then what is added to the log.

        `wait` is called when there is nothing new; it pauses, and returns False to end the log.
        """
        position = 0
        for path, descriptor in archive.open_files(self.root):
            while piece := os.read(descriptor, 1 << 20):
                yield piece
            if path == LOG_FILE:
                position = os.lseek(descriptor, 0, os.SEEK_CUR)
        if follow:
            yield from self._added(position, wait)

    def _added(self, position: int, wait: Callable[[], bool]) -> Iterator[bytes]:
        # Asked again and again: a volume is often a network file system, and those tell no inotify.
        descriptor = None
        try:
            while True:
                if descriptor is None:
                    descriptor = self._open_log()
                piece = os.pread(descriptor, 1 << 20, position) if descriptor is not None else b""
                position += len(piece)
                if piece:
                    yield piece
                elif not wait():
                    return
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open_log(self) -> int | None:
        try:
            return os.open(self.root / LOG_FILE, _READ_LOG)
        except FileNotFoundError:
            return None  # the nurse has not made it yet

    def _check_empty(self) -> None:
        # after an archive without entries the folder is empty, and yet written
        if self._written or not archive.is_empty(self.root):
            raise VolumeNotWritable("the volume has content already")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._closed or not self._writing.acquire(blocking=False):
            raise VolumeNotWritable("another transfer is writing to the volume")
        try:
            yield
        finally:
            self._writing.release()
