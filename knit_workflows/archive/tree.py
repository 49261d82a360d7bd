"""Makes entries below one folder, by descriptors, so that no link leads elsewhere."""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import EEXIST, ELOOP, ENOENT, ENOTDIR
from stat import S_ISLNK, S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from knit_workflows.archive.file_kinds import LOST_AND_FOUND
from knit_workflows.archive.folder_stack import FolderStack, folder_at
from knit_workflows.archive.sparse import write_segments
from knit_workflows.archive.tar import ArchiveRefused, Member, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777
_OWNER_READS = 0o400  # else whoever unpacked it could not pack it again
_OWNER_ENTERS = 0o500


class Summary(NamedTuple):
    """What went through."""

    files: int
    """Regular files, links and named pipes, not folders."""
    bytes: int
    """Content only, without the archive's own headers; holes count."""


def is_empty(folder: int) -> bool:
    """Whether the folder (a descriptor) has no entry besides the folder `lost+found`."""
    with os.scandir(folder) as entries:
        return all(
            entry.name == LOST_AND_FOUND and entry.is_dir(follow_symlinks=False)
            for entry in entries
        )


class Tree:
    """Writes below a root folder; stays where it wrote last, as archives come in that order.

    Of modes the permission bits are taken, and the owner can always read.
    """

    def __init__(self, root: int) -> None:
        """`root` is a descriptor and stays the caller's to close."""
        self._root = root
        self._at: FolderStack[bytes] = FolderStack(root)

    def close(self) -> None:
        """Closes what is open below the root."""
        self._at.close()

    def folder(self, parts: list[bytes]) -> int:
        """A descriptor of the folder, made with its parents if absent; valid until the next call.

        Raises:
            ArchiveRefused: a part of the path is a link or a file.
        """
        ours = self._at.names
        common = len(ours)
        if parts[:common] != ours:
            common = next(n for n, name in enumerate(ours) if parts[n : n + 1] != [name])
        if common < len(ours):
            self._at.leave_to(common)
        for part in parts[common:]:
            try:
                self._enter_or_make(part)
            except OSError as error:
                if error.errno in (ENOTDIR, ELOOP):
                    reason = "the path leads through a link or a file of this archive"
                    raise ArchiveRefused(reason, _joined(parts)) from None
                raise
        return self._at.here

    def file(
        self, parts: list[bytes], member: Member, content: Iterator[memoryview], *, sync: bool
    ) -> None:
        """Makes one regular file. Raises ArchiveRefused if the name is taken.

        `content` is what the archive has of it, `sync` waits for the disk.
        """
        folder = self.folder(parts[:-1])
        with _taken_is_refused(parts):
            descriptor = os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=folder)
        try:
            if member.segments is not None:
                write_segments(descriptor, content, member.segments, member.size)
            else:
                for piece in content:
                    while piece:
                        piece = piece[os.write(descriptor, piece) :]
            os.fchmod(descriptor, member.mode & _PERMISSIONS | _OWNER_READS)
            os.utime(descriptor, (member.mtime, member.mtime))
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def pipe(self, parts: list[bytes], mode: int, mtime: int) -> None:
        """Makes a named pipe."""
        folder = self.folder(parts[:-1])
        with _taken_is_refused(parts):
            os.mkfifo(parts[-1], 0o600, dir_fd=folder)
        # By name, as opening it would wait for a writer; it is ours, and links are made later.
        os.chmod(parts[-1], mode & _PERMISSIONS | _OWNER_READS, dir_fd=folder)
        os.utime(parts[-1], (mtime, mtime), dir_fd=folder, follow_symlinks=False)

    def symlink(self, parts: list[bytes], target: bytes, mtime: int) -> None:
        """Makes a symbolic link, to whatever it points; nobody may write below the root after."""
        folder = self.folder(parts[:-1])
        with _taken_is_refused(parts):
            os.symlink(target, parts[-1], dir_fd=folder)
        os.utime(parts[-1], (mtime, mtime), dir_fd=folder, follow_symlinks=False)

    def hard_link(self, parts: list[bytes], existing: list[bytes]) -> bool:
        """Gives a file or link made before a second name; False if there is none.

        It is reached by folders alone.
        """
        try:
            source = folder_at(self._root, existing[:-1])
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR, ELOOP):
                return False
            raise
        try:
            if not _is_file_or_link(existing[-1], source):
                return False
            into = self.folder(parts[:-1])
            with _taken_is_refused(parts):
                os.link(
                    existing[-1], parts[-1],
                    src_dir_fd=source, dst_dir_fd=into, follow_symlinks=False,
                )  # fmt: skip
            return True
        finally:
            os.close(source)

    def finish_folder(self, parts: list[bytes], mode: int, mtime: int) -> None:
        """Gives a folder its permissions and time; nothing may be made in it after that."""
        folder = self.folder(parts)
        os.fchmod(folder, mode & _PERMISSIONS | _OWNER_ENTERS)
        os.utime(folder, (mtime, mtime))

    def _enter_or_make(self, name: bytes) -> None:
        try:
            self._at.enter(name)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=self._at.here)
            self._at.enter(name)


def _is_file_or_link(name: bytes, folder: int) -> bool:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return S_ISREG(mode) or S_ISLNK(mode)


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
