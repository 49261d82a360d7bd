"""Volumes that are folders of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from knit_workflows import archive
from knit_workflows.archive.sync import sync_file_system
from knit_workflows.backup.streams import Stream
from knit_workflows.backup.volumes import VolumeAbsent, VolumeOccupied, VolumeUnreadable
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.domain.errors import BackendRejected, KnitError
from knit_workflows.domain.volumes import Volume


class FolderVolumes:
    """The volumes in the state folder of a local back-end; implements `Volumes`."""

    at_once = min(4, 2 * (os.cpu_count() or 1))
    """More than cores, since making files is mostly waiting."""

    def __init__(self, state: Path) -> None:
        self._state = StateFolder(state)
        self._is_made = False

    def read(self, volume: Volume) -> Iterator[bytes]:
        """See `Volumes`."""
        try:
            folder = self._state.volume(volume)
        except BackendRejected as cause:
            raise VolumeAbsent(cause.reason) from cause
        try:
            yield from archive.iter_pack(folder)
        except archive.CannotPack as cause:
            raise VolumeUnreadable(str(cause)) from cause
        except OSError as cause:
            raise VolumeUnreadable(f"{cause.filename or folder}: {cause.strerror}") from cause

    def capacity(self, volume: Volume) -> int | None:
        """Gives None: a folder takes what the disk has."""
        return None

    def room_for(self, size: int) -> str | None:
        """See `Volumes`: as above."""

    def write(self, volume: Volume, archive_: Iterator[bytes]) -> None:
        """See `Volumes`: a draft, which is renamed once it is complete."""
        target = self._state.volume_path(volume)
        if target.exists():
            raise VolumeOccupied
        try:
            if not self._is_made:
                self._state.make()
                self._is_made = True
            with self._state.draft() as draft:
                archive.unpack(Stream(archive_), draft)
                draft.chmod(0o777)  # as volumes are: containers of any user may have to read it
                draft.rename(target)
        except archive.ArchiveRefused as cause:
            raise VolumeUnreadable(f"{volume.name}: {cause}") from cause
        except KnitError as cause:
            raise VolumeUnreadable(f"{volume.name}: {cause.reason}") from cause

    def settle(self) -> None:
        """See `Volumes`: all at once, since a disk takes as long for one as for hundreds."""
        try:
            handle = os.open(self._state.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_file_system(handle)
            finally:
                os.close(handle)
        except FileNotFoundError:
            return  # there is nothing yet: no volume was made
        except OSError as cause:
            raise VolumeUnreadable(f"{self._state.path}: {cause.strerror}") from cause

    def expect(self, volumes: Sequence[Volume], *, to_write: bool) -> None:
        """Does nothing: folders need not be opened."""
