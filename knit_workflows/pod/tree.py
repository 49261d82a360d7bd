"""Makes and removes entries below one folder, by descriptors, so that no link leads elsewhere."""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import EEXIST, ELOOP, ENOTDIR
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from knit_workflows.pod.tar import ArchiveRefused, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LOST_AND_FOUND = "lost+found"
"""Made by mkfs at the top of a disk; belongs to the file system and is never Data."""

MAX_DEPTH = 128
"""Folders inside folders: each level costs an open descriptor."""

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SUCH_FILE = "a hard link to no file of this archive"


class Summary(NamedTuple):
    """What went through."""

    files: int
    """Regular files and links, not folders."""
    bytes: int
    """Content only, without the archive's own headers."""


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A descriptor of an existing folder; the path itself may be a link, as its giver chooses."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_empty(folder: int) -> bool:
    """Whether the folder (a descriptor) has no entry besides the folder `lost+found`."""
    with os.scandir(folder) as entries:
        return all(
            entry.name == LOST_AND_FOUND and entry.is_dir(follow_symlinks=False)
            for entry in entries
        )


def clear(folder: int) -> None:
    """Removes everything in the folder (a descriptor) but `lost+found`; again is fine.

    Recursion is as deep as the tree, and an archive's depth is limited.
    """
    _clear(folder, keep=LOST_AND_FOUND)


def _clear(folder: int, keep: str | None = None) -> None:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if name == keep:
            continue
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        child = os.open(name, FOLDER_FLAGS, dir_fd=folder)
        try:
            _clear(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=folder)


class Tree:
    """Writes below a root folder; keeps the path last used open, as archives come in that order."""

    def __init__(self, root: int) -> None:
        """`root` is a descriptor and stays the caller's to close."""
        self._root = root
        self._path: list[bytes] = []
        self._folders: list[int] = []

    def close(self) -> None:
        """Closes what is open below the root."""
        self._leave(0)

    def folder(self, parts: list[bytes]) -> int:
        """A descriptor of the folder, made with its parents if absent; valid until the next call.

        Raises:
            ArchiveRefused: a part of the path is a link or a file.
        """
        common = 0
        for ours, theirs in zip(self._path, parts):  # noqa: B905  the shorter one ends it
            if ours != theirs:
                break
            common += 1
        self._leave(common)
        for part in parts[common:]:
            try:
                child = _enter_or_make(part, self._here)
            except OSError as error:
                if error.errno in (ENOTDIR, ELOOP):
                    reason = "the path leads through a link or a file of this archive"
                    raise ArchiveRefused(reason, _joined(parts)) from None
                raise
            self._path.append(part)
            self._folders.append(child)
        return self._here

    def file(
        self,
        parts: list[bytes],
        content: Iterable[memoryview],
        *,
        mode: int,
        mtime: int,
        sync: bool,
    ) -> None:
        """Makes one regular file. Raises ArchiveRefused if the name is taken.

        `mode` loses all but the permission bits, `mtime` is in seconds, `sync` waits for the disk.
        """
        folder = self.folder(parts[:-1])
        with _taken_is_refused(parts):
            descriptor = os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=folder)
        try:
            for piece in content:
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
            os.fchmod(descriptor, mode & 0o777)
            os.utime(descriptor, (mtime, mtime))
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def symlink(self, parts: list[bytes], target: bytes) -> None:
        """Makes a symbolic link; whether the target is fit is the caller's to know."""
        folder = self.folder(parts[:-1])
        with _taken_is_refused(parts):
            os.symlink(target, parts[-1], dir_fd=folder)

    def hard_link(self, parts: list[bytes], existing: list[bytes]) -> None:
        """Gives a file made before a second name; ArchiveRefused if there is no such file."""
        try:
            source = _walk(self._root, existing[:-1])
        except (FileNotFoundError, NotADirectoryError):
            raise ArchiveRefused(_NO_SUCH_FILE, _joined(parts)) from None
        try:
            if not _is_file(existing[-1], source):
                raise ArchiveRefused(_NO_SUCH_FILE, _joined(parts))
            into = self.folder(parts[:-1])
            with _taken_is_refused(parts):
                os.link(
                    existing[-1], parts[-1],
                    src_dir_fd=source, dst_dir_fd=into, follow_symlinks=False,
                )  # fmt: skip
        finally:
            os.close(source)

    @property
    def _here(self) -> int:
        return self._folders[-1] if self._folders else self._root

    def _leave(self, depth: int) -> None:
        while len(self._folders) > depth:
            self._path.pop()
            os.close(self._folders.pop())


def _enter_or_make(name: bytes, parent: int) -> int:
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, FOLDER_FLAGS, dir_fd=parent)


def _walk(root: int, parts: list[bytes]) -> int:
    """A new descriptor of an existing folder, reached without following any link."""
    folder = os.dup(root)
    for part in parts:
        try:
            child = os.open(part, FOLDER_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
        folder = child
    return folder


def _is_file(name: bytes, folder: int) -> bool:
    try:
        return S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _taken_is_refused(parts: list[bytes]) -> Iterator[None]:
    """EEXIST is how duplicates are found: the file system remembers all names, so we need not."""
    try:
        yield
    except OSError as error:
        if error.errno == EEXIST:
            raise ArchiveRefused("the name stands in the archive twice", _joined(parts)) from None
        raise


def _joined(parts: list[bytes]) -> str:
    return shown(b"/".join(parts))
