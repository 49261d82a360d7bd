"""A folder: objects are files, which get their names once they are on the disk.

Many are brought there at once, since a disk takes as long for one as for hundreds.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from knit_workflows.archive.sync import sync_file_system
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.domain.os_errors import advice_for, reason_of

_DRAFTS: Final = "drafts"
_LOCK: Final = "lock"
_UNSETTLED_BYTES: Final = 256 << 20
_UNSETTLED_SECONDS: Final = 15.0
"""So much, or for so long, is not on the disk for sure: a kill loses that."""
_FEW: Final = 4


class Folder:
    """A destination that is a folder, which only its owner reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shown = str(root)
        self._drafts: dict[str, Path] = {}
        self._bytes = 0
        self._since = time.monotonic()
        self._guard = threading.Lock()
        self._settling = threading.Lock()

    @classmethod
    def at(cls, root: Path, *, new: bool) -> Self:
        """Gives the folder, made if it is `new`; raises BackupProblem."""
        if not new and not root.is_dir():
            raise BackupProblem(f"there is no folder {root}", advice="name that of a backup")
        with _failures("make", root):
            if new:
                _make(root / _DRAFTS)
        return cls(root)

    def read(self, name: str) -> bytes | None:
        """See `Destination`."""
        with _failures("read", self.root / name), self._settling:
            path = self._drafts.get(name, self.root / name)
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See `Destination`."""
        draft = self.root / _DRAFTS / uuid.uuid4().hex
        with _failures("write", self.root / name):
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                _begin_writing(handle)
        with self._guard:
            replaced = self._drafts.get(name)
            self._drafts[name] = draft
            self._bytes += len(content)
            late = time.monotonic() - self._since > _UNSETTLED_SECONDS
            is_due = late or self._bytes > _UNSETTLED_BYTES
        if replaced is not None:
            with self._settling:  # which may be giving it its name just now
                replaced.unlink(missing_ok=True)
        if is_due:
            self.settle()

    def remove(self, name: str) -> None:
        """See `Destination`."""
        self.settle()
        with _failures("remove", self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def names(self, prefix: str) -> Iterator[str]:
        """See `Destination`."""
        top = self.root / prefix

        def not_listed(error: OSError) -> None:
            # By itself `os.walk` goes on without: pieces of sets that it misses would be removed.
            if not (isinstance(error, FileNotFoundError) and error.filename == str(top)):
                raise error

        with _failures("read", top):
            # As text: there may be a million, for which a Path each takes half a minute.
            skipped = len(f"{self.root}/")
            for folder, _, files in os.walk(top, onerror=not_listed):
                below = folder.rstrip("/")[skipped:]
                yield from [f"{below}/{file}" for file in files]

    def settle(self) -> None:
        """See `Destination`: all files are brought to the disk, then they get their names.

        The names themselves are there for sure with the next call, if they are in many folders.
        """
        with self._settling, _failures("write", self.root):
            with self._guard:
                drafts = dict(self._drafts)
                self._bytes, self._since = 0, time.monotonic()
            if not drafts:
                return
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_file_system(handle)  # also the names that others were given before
            finally:
                os.close(handle)
            for name, draft in drafts.items():
                _make((self.root / name).parent)
                draft.rename(self.root / name)
            folders = {(self.root / name).parent for name in drafts}
            if len(folders) <= _FEW:  # such as that of a manifest: the last that is written
                for folder in folders:
                    _sync_names(folder)
            with self._guard:
                for name, draft in drafts.items():
                    if self._drafts.get(name) == draft:
                        del self._drafts[name]

    @contextmanager
    def locked(self) -> Iterator[Held]:
        """See `Destination`; the kernel unlocks it when its holder dies."""
        with _failures("lock", self.root):
            _make(self.root / _DRAFTS)
            handle = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                self._lock(handle, fcntl.LOCK_EX)
            except OSError as cause:
                raise _failed("lock", self.root, cause) from cause
            self._remove_drafts()
            yield Held()
        finally:
            os.close(handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Destination`; several may read at once."""
        with ExitStack() as stack:
            with suppress(OSError):  # of a folder, or on a disk, that cannot be written
                handle = self._open_lock()
                stack.callback(os.close, handle)
                self._lock(handle, fcntl.LOCK_SH)
            yield

    def _open_lock(self) -> int:
        path = self.root / _LOCK
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _lock(self, handle: int, kind: int) -> None:
        """Locks the folder; raises BackupProblem if others have locked it, or OSError."""
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise BackupProblem(
                f"another backup is at work on {self.shown}, or a restore reads it",
                advice="wait until it has ended, then repeat the command",
            ) from cause

    def _remove_drafts(self) -> None:
        """Removes what a killed one had not finished; only the holder of the lock writes any."""
        for draft in (self.root / _DRAFTS).iterdir():
            with suppress(OSError):
                draft.unlink()


class Held:
    """A lock that is never lost."""

    def require(self) -> None:
        """Returns."""


def _begin_writing(handle: int) -> None:
    """Has the disk begin: or whoever syncs a small file later waits for all of it."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_names(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make(folder: Path) -> None:
    """Makes a folder and those above it, for their owner only; those that are there stay."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _failures(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise _failed(verb, path, cause) from cause


def _failed(verb: str, path: Path, cause: OSError) -> BackupProblem:
    return BackupProblem(
        f"cannot {verb} {path}", reason=reason_of(cause) or "", advice=advice_for(cause)
    )
