"""The state folder: volumes, transfers and pods as folders; every step is atomic.

```
volumes/<volume>/      the files of a Data
origins/<volume>       a file: which Run makes it, for `knit admin rebuild`
transfers/<transfer>   an empty file while the transfer is open
pods/<pod>/            one folder per run pod, see `pod_folder`
trash/                 what is being deleted
```
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from knit_workflows import archive, names
from knit_workflows.compute.adopted_folders import is_adopted, refuse_change
from knit_workflows.compute.base import FoundVolume, Transfer, TransferMode
from knit_workflows.disk import FULL, storage_full
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    DataExists,
    VolumeRefused,
)
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.domain.volumes import Volume

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_PAGE: Final = 1000
_TRASHED: Final = re.compile(r".+\.[0-9a-f]{32}")
_LOOK_SECONDS: Final = 1.0
_BLOCK: Final = 512
"""Bytes; the unit of `st_blocks`."""
_DRAFT_TTL: Final = 600.0
"""Seconds after which a folder in the trash that nobody has locked cannot be a draft in use."""


class StateFolder:
    """The state folder of a local back-end; its methods block on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.pods = self.path / "pods"
        self._volumes = self.path / "volumes"
        self._origins = self.path / "origins"
        self._transfers = self.path / "transfers"
        self._trash = self.path / "trash"

    def make(self) -> None:
        """Creates the folders that are missing."""
        with disk_errors():
            for folder in (self.pods, self._volumes, self._origins, self._transfers, self._trash):
                folder.mkdir(parents=True, exist_ok=True)

    def empty_trash(self) -> None:
        """Deletes what a killed process has left in the trash.

        Raises the first problem of an item, once all others are deleted.
        """
        problems: list[OSError | BackendRejected] = []
        for item in self._trash.iterdir():
            try:
                # Several may delete trash at once without harm, but a draft may be in use.
                if _TRASHED.fullmatch(item.name) or _is_left_draft(item):
                    _remove(item)
            except FileNotFoundError:
                continue
            except (OSError, BackendRejected) as problem:
                problems.append(problem)
        if problems:
            raise problems[0]

    def trash_of_others(self) -> int:
        """Gives the bytes in the trash that belong to other users, so that we cannot free them.

        Those that we may not even see are not among them, and it does not look for ever.
        """
        give_up = time.monotonic() + _LOOK_SECONDS
        total = 0
        with suppress(FileNotFoundError):  # as where nothing has ever been made
            for parent, folders, files, here in os.fwalk(self._trash):
                if Path(parent) == self._trash:  # without drafts, which are in use
                    folders[:] = filter(_TRASHED.fullmatch, folders)
                total += sum(_blocks_of_others(name, here) for name in (*folders, *files))
                if time.monotonic() > give_up:
                    break
        return total

    def removal_of_trash(self) -> str:
        """Gives the command with which an administrator frees them."""
        return f"sudo rm -rf {shlex.quote(str(self._trash))}/*.*"

    def pod(self, name: str) -> Path:
        """Where a pod's folder is, or would be."""
        return self.pods / checked_name(name)

    def pod_names(self) -> list[str]:
        """Names of the pods that have a folder."""
        return sorted(p.name for p in self.pods.iterdir())

    def move_to_trash(self, folder: Path) -> Path | None:
        """Moves a folder to the trash at once; gives its new path, None if it was gone."""
        trashed = self._trash / f"{folder.name}.{uuid.uuid4().hex}"
        with disk_errors():
            try:
                folder.rename(trashed)
            except FileNotFoundError:
                return None
        return trashed

    def remove(self, trashed: Path) -> None:
        """Deletes a folder in the trash."""
        _remove(trashed)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Gives an empty folder to fill and rename; what remains of it is deleted.

        It is locked, so that nobody takes it for left, however long it takes to be filled.
        """
        with disk_errors():
            draft = Path(tempfile.mkdtemp(dir=self._trash))
            lock = _locked(draft)
        try:
            with disk_errors():
                yield draft
        finally:
            with suppress(OSError):
                archive.remove(draft)
            os.close(lock)

    # --- volumes and transfers -----------------------------------------------------------------

    def create_volume(self, volume: Volume) -> None:
        """Creates an empty folder that containers of any user may write to."""
        refuse_change(volume)
        path = self.volume_path(volume)
        with disk_errors():
            if volume.origin:  # first, so that no volume of a Run is without
                self._origin_path(volume).write_text(volume.origin, encoding="utf-8")
            path.mkdir(exist_ok=True)
            # Also if it exists: an earlier call may have been killed in between.
            path.chmod(0o777)

    def volumes(self, *, with_origins: bool) -> Generator[list[FoundVolume], None, None]:
        """Yields the folders of volumes, some at a time."""
        with os.scandir(self._volumes) as entries:
            for chunk in iter(lambda: list(islice(entries, _PAGE)), []):
                found = [one for entry in chunk for one in _found(entry)]
                yield [self._with_origin(one) for one in found] if with_origins else found

    def forget_origin(self, volume: Volume) -> None:
        """Forgets which Run has made a volume."""
        with disk_errors():
            self._origin_path(volume).unlink(missing_ok=True)

    def _origin_path(self, volume: Volume) -> Path:
        return self._origins / checked_name(volume.name)

    def _with_origin(self, found: FoundVolume) -> FoundVolume:
        try:
            origin = (self._origins / found.name).read_text(encoding="utf-8", errors="replace")
        except OSError:  # whatever it is, this one's origin is not known
            return found
        return replace(found, origin=origin)

    def volume_path(self, volume: Volume) -> Path:
        """Where a volume's folder is, or would be; an adopted one is where its owner has it."""
        if is_adopted(volume):
            return Path(volume.name)
        return self._volumes / checked_name(volume.name)

    def volume(self, volume: Volume) -> Path:
        """Gives the folder of a volume; raises BackendRejected when there is none."""
        path = self.volume_path(volume)
        if not path.is_dir():
            if is_adopted(volume):
                raise BackendRejected(
                    f"the adopted folder {volume.name} is gone",
                    advice="put it back where it was, or purge the Data: knit data purge",
                    see=volume.knit_id,
                )
            raise BackendRejected(
                f"there is no volume {volume.name}",
                advice="its Data was deleted, or the state folder is another one",
                see=volume.knit_id,
            )
        return path

    def as_if_made(self) -> StateFolder:
        """Gives the same folder, but for asking: each of its volumes counts as made."""
        return _AsIfMade(self.path)

    def require_imported(self, volume: Volume) -> None:
        """Raises VolumeRefused unless a volume is a folder in its place; links do not count."""
        path = self.volume_path(volume)
        if path.is_symlink() or not path.is_dir():
            raise VolumeRefused(
                f"there is no folder {path}",
                advice="fill a folder beside it, then rename it to that name",
                see=volume.knit_id,
            )

    def open_transfer(self, transfer: Transfer) -> Path:
        """Gives the folder that the transfer reads or writes; raises DataExists."""
        if transfer.mode is TransferMode.WRITE:
            refuse_change(transfer.volume)
        folder = self.volume(transfer.volume)
        marker = self._transfers / checked_name(transfer.name)
        if not marker.exists():
            if transfer.mode is TransferMode.WRITE and any(folder.iterdir()):
                raise DataExists(see=transfer.volume.knit_id)
            with disk_errors():
                marker.touch()
        return folder

    def close_transfer(self, transfer: Transfer) -> None:
        """Forgets a transfer."""
        (self._transfers / checked_name(transfer.name)).unlink(missing_ok=True)


class _AsIfMade(StateFolder):
    """A state folder in which every volume is taken to be there."""

    def volume(self, volume: Volume) -> Path:
        """Gives where the volume's folder would be."""
        return self.volume_path(volume)


def _found(entry: os.DirEntry[str]) -> Iterator[FoundVolume]:
    """Gives the volume that an entry is, if it is one of knit's, and not gone meanwhile."""
    if names.is_own_volume(entry.name):
        with suppress(FileNotFoundError):
            yield FoundVolume(entry.name, datetime.fromtimestamp(entry.stat().st_ctime, UTC))


def checked_name(name: str) -> str:
    """Returns the name if it is safe as one component of a path; raises BackendRejected."""
    if not _NAME.fullmatch(name):
        raise BackendRejected(f"{name[:80]!r} cannot be the name of a pod, volume or transfer")
    return name


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translates errors of the disk into knit's."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise storage_full(error) from error
        raise BackendUnavailable(
            f"the state folder cannot be used: {reason_of(error)}",
            advice=advice_for(error, "check that it is on a healthy local disk, and yours"),
        ) from error


def _locked(folder: Path) -> int:
    """Locks a folder until the descriptor is closed, by the kernel if its process is killed.

    Raises:
        BlockingIOError: it is locked.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_left_draft(item: Path) -> bool:
    """Says whether something in the trash is not, and cannot be any more, a draft in use."""
    # A young one may be locked in a moment. An old one changes no more while its folders fill.
    if time.time() - item.stat().st_mtime <= _DRAFT_TTL:
        return False
    try:
        os.close(_locked(item))
    except BlockingIOError:
        return False
    except (NotADirectoryError, PermissionError):
        return True  # no folder, or another's: whoever removes it meets that
    return True


def _blocks_of_others(name: str, folder: int) -> int:
    """Gives the bytes that an entry takes up on the disk if it is not ours; gone: none."""
    with suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if found.st_uid != os.geteuid():
            return found.st_blocks * _BLOCK
    return 0


def _remove(folder: Path) -> None:
    """Deletes a tree, including folders that programs have made read-only; or what is no folder."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink(missing_ok=True)
        else:
            archive.remove(folder)
    except PermissionError as error:
        raise BackendRejected(
            f"{error.filename} belongs to another user, so it stays in the trash",
            advice=f"remove it as that user or as root: {folder}",
        ) from error
