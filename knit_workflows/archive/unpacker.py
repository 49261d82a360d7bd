"""Unpacks a tar stream into an empty folder: all of it or nothing, and never outside it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from knit_workflows.archive import removal, tar, tree
from knit_workflows.archive.deferred import DeferredMembers
from knit_workflows.archive.file_kinds import LOST_AND_FOUND
from knit_workflows.archive.folder_stack import opened_folder
from knit_workflows.archive.sync import sync_file_system, sync_folders
from knit_workflows.archive.tar import ArchiveRefused, Member, Readable, TarReader
from knit_workflows.archive.tree import Summary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FEW = 16  # entries; up to here each is synced by itself
_MAX_TARGET_BYTES = 4095


@dataclass(frozen=True)
class Limits:
    """Limits beyond which an archive is refused."""

    entries: int = 10_000_000
    content_bytes: int = 1 << 44
    """Sum over all files, holes included: 16 TiB, so in practice the volume's size is the limit."""
    path_bytes: int = tar.MAX_PATH_BYTES
    name_bytes: int = 255
    depth: int = tar.MAX_DEPTH


DEFAULT_LIMITS = Limits()


def unpack(
    source: Readable,
    root: Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    sync: bool = False,
    links: bool = True,
    left_out: Callable[[str, str], object] = lambda path, what: None,
) -> Summary:
    """Unpacks a plain tar stream into an empty folder: all of it, or nothing.

    The stream is read to its very end. Owners are ignored; files and folders keep their permissions
    and time, without set-id and sticky bits, and their owner can always read them. Links are made
    as they are, wherever they lead, after all else: nothing is written through one. On any error,
    or when interrupted, what was written is removed before the error is raised.

    Args:
        source: the stream.
        root: an empty folder.
        limits: beyond them the archive is refused.
        sync: whether to return only when everything is on the disk.
        links: False leaves symbolic links out.
        left_out: is called with path and kind of each file that the archive says was left out, and
            of each link left out here.

    Raises:
        ArchiveRefused: the archive is broken, cut off, or not safe to unpack.
        FileExistsError: the folder is not empty, and not changed. So a second call fails.
        OSError: the folder is none, the disk is full, or the source failed.
    """
    with opened_folder(root) as folder:
        if not tree.is_empty(folder):
            raise FileExistsError(errno.EEXIST, "the folder is not empty", str(root))
        try:
            return _Unpacking(TarReader(source), folder, limits, links, left_out).run(sync)
        except BaseException as error:  # also KeyboardInterrupt: half a Data is worse than none
            try:
                removal.clear(folder)
            except OSError as failure:
                error.add_note(f"What had been written could not be removed: {failure}")
            raise


def check(source: Readable, limits: Limits = DEFAULT_LIMITS) -> Summary:
    """Reads a plain tar stream to its very end, and refuses what `unpack` would refuse.

    Only that what it makes has one name for two things, or needs more room, does not show here.

    Raises:
        ArchiveRefused: the archive is broken, cut off, or not safe to unpack.
    """
    files = total = 0
    for entries, member in enumerate(TarReader(source).members(), 1):
        total += member.size
        _check_limits(entries, total, limits, member)
        if member.kind == tar.FOLDER:
            _parts(member.name, limits, member)
        elif member.kind != tar.NOTE:
            _checked_parts(member, limits)
            files += 1
        if member.kind == tar.HARD_LINK:
            _link_parts(member, limits)
    return Summary(files, total)


class _Unpacking:
    """One archive on its way into one folder."""

    def __init__(
        self,
        reader: TarReader,
        root: int,
        limits: Limits,
        links: bool,
        left_out: Callable[[str, str], object],
    ) -> None:
        self._reader = reader
        self._root = root
        self._limits = limits
        self._links = links
        self._left_out = left_out
        self._target = tree.Tree(root)
        self._deferred = DeferredMembers(root)

    def run(self, sync: bool) -> Summary:
        """Data becomes `done` in the database only after this returned, and `done` is for ever.

        Hence content and names must be on the disk first: a power cut before leaves a failed Run, a
        power cut after finds everything. A few entries are synced one by one; for many, one sync of
        the file system is cheaper than thousands of flushes, and on a volume there is little else
        to wait for.
        """
        entries = files = total = 0
        limits = self._limits
        try:
            for member in self._reader.members():
                entries += 1
                total += member.size
                _check_limits(entries, total, limits, member)
                files += self._place(member, sync=sync and entries <= _FEW)
            self._make_links()
            self._finish_folders()
        finally:
            self._target.close()
            self._deferred.close()
        if sync:
            sync_folders(self._root) if entries <= _FEW else sync_file_system(self._root)
        return Summary(files, total)

    def _place(self, member: Member, *, sync: bool) -> bool:
        """Creates an entry, or defers it; True for what counts as a file."""
        if member.kind == tar.NOTE:
            self._left_out(tar.shown(member.name), tar.shown(member.link))
            return False
        if member.kind == tar.FOLDER:
            parts = _parts(member.name, self._limits, member)
            self._target.folder(parts)
            if parts:  # the root is its owner's
                self._deferred.add(member)
            return False
        parts = _checked_parts(member, self._limits)
        if member.kind == tar.FILE:
            self._target.file(parts, member, self._reader.content(), sync=sync)
        elif member.kind == tar.PIPE:
            self._target.pipe(parts, member.mode, member.mtime)
        elif member.kind == tar.SYMLINK:
            if not self._links:
                self._left_out(tar.shown(member.name), "link")
                return False
            self._deferred.add(member)
        else:
            self._hard_link(member, parts, linked_later=True)
        return True

    def _hard_link(self, member: Member, parts: list[bytes], *, linked_later: bool) -> None:
        existing = _link_parts(member, self._limits)
        if self._target.hard_link(parts, existing):
            return
        if not linked_later:
            raise ArchiveRefused("a hard link to no file of this archive", tar.shown(member.name))
        self._deferred.add(member)  # to a symbolic link perhaps, which is not there yet

    def _make_links(self) -> None:
        """Creates the symbolic links, now that only links and modes are still to be written."""
        for kind in (tar.SYMLINK, tar.HARD_LINK):
            for member in self._deferred.members():
                if member.kind != kind:
                    continue
                parts = _parts(member.name, self._limits, member)
                if kind == tar.SYMLINK:
                    self._target.symlink(parts, member.link, member.mtime)
                else:
                    self._hard_link(member, parts, linked_later=False)

    def _finish_folders(self) -> None:
        """Sets permissions and times of folders last: each new entry would change them."""
        for member in self._deferred.members():
            if member.kind == tar.FOLDER:
                parts = _parts(member.name, self._limits, member)
                self._target.finish_folder(parts, member.mode, member.mtime)


def _check_limits(entries: int, total: int, limits: Limits, member: Member) -> None:
    if entries > limits.entries:
        raise ArchiveRefused(f"more than {limits.entries} entries")
    if total > limits.content_bytes:
        reason = f"more than {limits.content_bytes} bytes"
        raise ArchiveRefused(reason, tar.shown(member.name))


def _checked_parts(member: Member, limits: Limits) -> list[bytes]:
    """Gives the names on the way to what is no folder."""
    parts = _parts(member.name, limits, member)
    if not parts or member.name.endswith(b"/"):
        raise ArchiveRefused("a file or link needs a name", tar.shown(member.name))
    if member.kind == tar.SYMLINK:
        _check_target(member)
    return parts


def _link_parts(member: Member, limits: Limits) -> list[bytes]:
    """Gives the names on the way to what a hard link is another name of."""
    existing = _parts(member.link, limits, member)
    if not existing:
        raise ArchiveRefused("a hard link to nothing", tar.shown(member.name))
    return existing


def _parts(path: bytes, limits: Limits, member: Member) -> list[bytes]:
    """Splits the path into its names; none for the root."""
    parts = path.split(b"/")
    if b"" in parts or b"." in parts:
        parts = [part for part in parts if part not in (b"", b".")]
    if path.startswith(b"/"):
        reason = "the path is absolute"
    elif b".." in parts:
        reason = "the path leads out of the folder ('..')"
    elif b"\0" in path:
        reason = "the path contains a null character"
    elif len(path) > limits.path_bytes:
        reason = f"the path is longer than {limits.path_bytes} bytes"
    elif parts and max(map(len, parts)) > limits.name_bytes:
        reason = f"a name in the path is longer than {limits.name_bytes} bytes"
    elif len(parts) > limits.depth:
        reason = f"the path is deeper than {limits.depth} folders"
    elif parts and parts[0] == os.fsencode(LOST_AND_FOUND):
        reason = "'lost+found' at the top belongs to the file system"
    else:
        return parts
    raise ArchiveRefused(reason, tar.shown(member.name))


def _check_target(member: Member) -> None:
    """Refuses targets that no file system would store; where a link leads is not checked."""
    if not member.link or b"\0" in member.link or len(member.link) > _MAX_TARGET_BYTES:
        reason = "the link's target is empty, too long, or contains a null character"
        raise ArchiveRefused(reason, tar.shown(member.name))
