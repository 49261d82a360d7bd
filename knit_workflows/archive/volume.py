"""The volume that a transfer agent serves: written at most once, completely or not at all."""

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
"""The file that the log sidecar writes at the top of a log volume."""

_READ_LOG = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class VolumeNotWritable(Exception):
    """The volume has content, or is being written; the message says which."""


class ServedVolume:
    """One folder with an exclusive writer, shared by the threads of an agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._writing = threading.Lock()
        self._written = False
        self._closed = False

    def check_writable(self) -> None:
        """Raises VolumeNotWritable if `write` would, before a client sends a body in vain."""
        if self._writing.locked():
            raise VolumeNotWritable("another transfer is writing to the volume")
        self._check_empty()

    def write(self, source: archive.Readable) -> archive.Summary:
        """Unpacks a plain tar stream; when it returns, the content is on the disk.

        On any error the volume is empty again, and the next call starts afresh.

        Raises:
            VolumeNotWritable: an earlier write succeeded, or another one is in progress.
            ArchiveRefused, OSError: as `archive.unpack`.
        """
        with self._exclusive():
            self._check_empty()
            summary = archive.unpack(source, self.root, sync=True)
            if self._closed:  # the response will not arrive, so nobody would know that it succeeded
                archive.clear(self.root)
                raise VolumeNotWritable("the agent is ending")
            self._written = True
            return summary

    def clear(self) -> None:
        """Empties the volume, so that it can be written again; may be repeated."""
        with self._exclusive():
            archive.clear(self.root)
            self._written = False

    def close(self, seconds: float) -> None:
        """Refuses further writes, and waits until one in progress has cleaned up.

        The connection of its source must have been closed before.
        """
        self._closed = True
        self._writing.acquire(timeout=seconds)

    def log(self, *, follow: bool, wait: Callable[[], bool]) -> Iterator[bytes]:
        """Yields the content of all files in name order; with `follow`, then what the log gains.

        `wait` is called when there is nothing new; it pauses, and returns False to end the log.
        """
        position = 0
        for path, descriptor in archive.open_files(self.root):
            while chunk := os.read(descriptor, 1 << 20):
                yield chunk
            if path == LOG_FILE:
                position = os.lseek(descriptor, 0, os.SEEK_CUR)
        if follow:
            yield from self._added(position, wait)

    def _added(self, position: int, wait: Callable[[], bool]) -> Iterator[bytes]:
        # Polled: a volume is often on a network file system, which has no inotify.
        descriptor = None
        try:
            while True:
                if descriptor is None:
                    descriptor = self._open_log()
                chunk = os.pread(descriptor, 1 << 20, position) if descriptor is not None else b""
                position += len(chunk)
                if chunk:
                    yield chunk
                elif not wait():
                    return
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open_log(self) -> int | None:
        try:
            return os.open(self.root / LOG_FILE, _READ_LOG)
        except FileNotFoundError:
            return None  # the log sidecar has not created it yet

    def _check_empty(self) -> None:
        # after an archive without entries the folder is empty, yet written
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
