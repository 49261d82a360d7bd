"""Has what a Run wrote on the disk before its end is reported: `done` is for ever.

Few files are synced one by one, as those of small uploads are. For many, one sync of the file
system is cheaper; Runs that end together share it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from knit_workflows.archive.sync import sync_file_system

FEW: Final = 16
"""Up to so many entries are synced one by one: a sync of the file system also waits for what other
programs have written to it."""


def sync_log(log: Path) -> None:
    """Syncs a log and its name; gone: fine. Raises OSError: it could not be written."""
    for path in (log, log.parent):
        with suppress(FileNotFoundError):
            _sync(path)


def sync_few(folders: Sequence[Path]) -> bool:
    """Syncs folders of few files; False: something in them is closed to us. Gone: fine.

    Raises:
        OSError: something could not be written.
    """
    try:
        for folder in folders:
            with suppress(FileNotFoundError):
                _sync_tree(folder)
                _sync(folder.parent)  # for its own name
    except PermissionError:  # as containers may leave it, whose users are not ours
        return False
    return True


def _sync_tree(top: Path) -> None:
    for _, _, files, here in os.fwalk(top, onerror=_unless_gone):
        for name in files:
            with suppress(FileNotFoundError):
                if stat.S_ISREG(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                    _sync(name, dir_fd=here)
        os.fsync(here)


class SharedSyncs:
    """Syncs of file systems, each shared by all that asked before it began."""

    def __init__(self) -> None:
        self._next: dict[int, asyncio.Task[None]] = {}
        self._last: dict[int, asyncio.Task[None]] = {}

    async def sync(self, folder: Path) -> None:
        """Syncs the file system of a folder; gone: fine.

        At most one sync of it is under way, and one waits: what was written before this call may
        have been too late for the former.

        Raises:
            OSError: something could not be written.
        """
        try:
            device = (await asyncio.to_thread(folder.stat)).st_dev
        except FileNotFoundError:
            return
        task = self._next.get(device)
        if task is None:
            task = asyncio.create_task(self._run(device, folder, self._last.get(device)))
            self._next[device] = task
        await asyncio.shield(task)

    async def aclose(self) -> None:
        """Waits for those that are under way."""
        if pending := {*self._next.values(), *self._last.values()}:
            await asyncio.wait(pending)

    async def _run(self, device: int, folder: Path, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._last[device] = self._next.pop(device)
        await asyncio.to_thread(_sync_file_system_of, folder)


def _sync_file_system_of(folder: Path) -> None:
    """Syncs it by the folder, or by the one above if it is gone: others rely on this sync."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(folder.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file_system(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path | str, dir_fd: int | None = None) -> None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if dir_fd is not None:  # a name that a Run has given, while our own folders may be links
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
