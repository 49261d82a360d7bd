"""Keeps volumes, transfers and pods as folders under one state folder; every step is atomic.

```
volumes/<volume>/      the files of a Data
transfers/<transfer>   an empty file while the transfer is open
pods/<pod>/            one folder per run pod, see `pod_folder`
trash/                 what is being removed
```
"""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from knit_workflows import archive
from knit_workflows.compute.base import Transfer, TransferMode
from knit_workflows.disk import FULL, storage_full
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    DataExists,
)
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.domain.volumes import Volume

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_GRAVE: Final = re.compile(r".+\.[0-9a-f]{32}")
_LONG_AGO: Final = 600.0
"""Seconds after which what is in the trash is nobody's draft any more."""


class StateFolder:
    """The state folder of a local back-end; its methods block, but only for the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.pods = self.path / "pods"
        self._volumes = self.path / "volumes"
        self._transfers = self.path / "transfers"
        self._trash = self.path / "trash"

    def make(self) -> None:
        """Creates what is missing."""
        with disk_errors():
            for folder in (self.pods, self._volumes, self._transfers, self._trash):
                folder.mkdir(parents=True, exist_ok=True)

    def empty_trash(self) -> None:
        """Removes what a killed process left half removed."""
        for item in self._trash.iterdir():
            with suppress(FileNotFoundError):
                # A grave is removed by several at once without harm; a draft may be in the making.
                if _GRAVE.fullmatch(item.name) or time.time() - item.stat().st_mtime > _LONG_AGO:
                    _remove(item)

    def pod(self, name: str) -> Path:
        """Where a pod's folder is, or would be."""
        return self.pods / checked_name(name)

    def pod_names(self) -> list[str]:
        """Names of the pods that have a folder."""
        return sorted(p.name for p in self.pods.iterdir())

    def bury(self, folder: Path) -> Path | None:
        """Takes a folder's name away at once; gives what is to be removed, None if it was gone."""
        grave = self._trash / f"{folder.name}.{uuid.uuid4().hex}"
        with disk_errors():
            try:
                folder.rename(grave)
            except FileNotFoundError:
                return None
        return grave

    def remove(self, grave: Path) -> None:
        """Removes what was buried."""
        _remove(grave)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Gives an empty folder to fill and rename; what is left of it is removed."""
        with disk_errors():
            draft = Path(tempfile.mkdtemp(dir=self._trash))
        try:
            with disk_errors():
                yield draft
        finally:
            with suppress(OSError):
                archive.remove(draft)

    # --- volumes and transfers -----------------------------------------------------------------

    def create_volume(self, volume: Volume) -> None:
        """Makes an empty folder that containers of any user may write to."""
        path = self.volume_path(volume)
        with disk_errors():
            path.mkdir(exist_ok=True)
            # Also when it is there: an earlier call may have been killed in between.
            path.chmod(0o777)

    def volume_path(self, volume: Volume) -> Path:
        """Where a volume's folder is, or would be."""
        return self._volumes / checked_name(volume.name)

    def volume(self, volume: Volume) -> Path:
        """Gives the folder of a volume; raises BackendRejected when there is none."""
        path = self.volume_path(volume)
        if not path.is_dir():
            raise BackendRejected(
                f"there is no volume {volume.name}",
                advice="its Data was deleted, or the state folder is another one",
                see=volume.knit_id,
            )
        return path

    def open_transfer(self, transfer: Transfer) -> Path:
        """Gives the folder that the transfer reads or writes; raises DataExists."""
        folder = self.volume(transfer.volume)
        door = self._transfers / checked_name(transfer.name)
        if not door.exists():
            if transfer.mode is TransferMode.WRITE and any(folder.iterdir()):
                raise DataExists(see=transfer.volume.knit_id)
            with disk_errors():
                door.touch()
        return folder

    def close_transfer(self, transfer: Transfer) -> None:
        """Forgets a transfer."""
        (self._transfers / checked_name(transfer.name)).unlink(missing_ok=True)


def checked_name(name: str) -> str:
    """Gives back a name that is safe as one part of a path; raises BackendRejected."""
    if not _NAME.fullmatch(name):
        raise BackendRejected(f"{name[:80]!r} cannot be the name of a pod, volume or transfer")
    return name


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translates what the disk answers into knit's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise storage_full(error) from error
        raise BackendUnavailable(
            f"the state folder cannot be used: {reason_of(error)}",
            advice=advice_for(error, "check that it is on a healthy local disk, and yours"),
        ) from error


def _remove(folder: Path) -> None:
    """Removes a tree, also where programs left folders that nobody may write to."""
    try:
        archive.remove(folder)
    except PermissionError as error:
        raise BackendRejected(
            f"{error.filename} belongs to another user, so it stays in the trash",
            advice=f"remove it as that user or as root: {folder}",
        ) from error
