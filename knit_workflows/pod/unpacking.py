"""Unpacks a tar stream into an empty folder: all of it or nothing, and nothing outside it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from knit_workflows.pod import tar, tree
from knit_workflows.pod.durability import sync_file_system, sync_folders
from knit_workflows.pod.tar import ArchiveRefused, Member, Readable, TarReader
from knit_workflows.pod.tree import MAX_DEPTH, Summary

if TYPE_CHECKING:
    from pathlib import Path

_FEW = 16  # entries; up to here each is synced by itself


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for at most before it is refused."""

    entries: int = 10_000_000
    content_bytes: int = 1 << 44
    """Sum over all files: 16 TiB, so in practice the volume's own size is the limit."""
    path_bytes: int = 4096
    name_bytes: int = 255
    depth: int = MAX_DEPTH


DEFAULT_LIMITS = Limits()


def unpack(
    source: Readable, root: Path, limits: Limits = DEFAULT_LIMITS, *, sync: bool = False
) -> Summary:
    """Unpacks a plain tar stream into an empty folder: all of it, or nothing.

    The stream is read to its very end. Owners are ignored, files keep their permission bits and
    time, folders are 0o755. On any error, or when interrupted, what was written is removed before
    the error is raised. With `sync`, what is returned has reached the disk.

    Raises:
        ArchiveRefused: the archive is broken, cut off, or not safe to unpack.
        FileExistsError: the folder is not empty; it is left alone. So a second call fails.
        OSError: the folder is none, the disk is full, or the source failed.
    """
    with tree.opened_folder(root) as folder:
        if not tree.is_empty(folder):
            raise FileExistsError(errno.EEXIST, "the folder is not empty", str(root))
        try:
            return _unpack(TarReader(source), folder, limits, sync)
        except BaseException as error:  # also KeyboardInterrupt: half a Data is worse than none
            try:
                tree.clear(folder)
            except OSError as failure:
                error.add_note(f"What had been written could not be removed: {failure}")
            raise


def _unpack(reader: TarReader, root: int, limits: Limits, sync: bool) -> Summary:
    """Data becomes `done` in the database only after this returned, and `done` is for ever.

    Hence content and names must be on the disk first: a power cut before leaves a failed Run, a
    power cut after finds everything. A few entries are synced one by one; for many, one sync of the
    file system is cheaper than thousands of flushes, and on a volume there is little else to wait
    for.
    """
    entries = files = total = 0
    target = tree.Tree(root)
    try:
        for member in reader.members():
            entries += 1
            total += member.size
            if entries > limits.entries:
                raise ArchiveRefused(f"more than {limits.entries} entries")
            if total > limits.content_bytes:
                raise ArchiveRefused(
                    f"more than {limits.content_bytes} bytes", tar.shown(member.name)
                )
            _place(member, reader, target, limits, sync=sync and entries <= _FEW)
            files += member.kind != tar.FOLDER
    finally:
        target.close()
    if sync:
        sync_folders(root) if entries <= _FEW else sync_file_system(root)
    return Summary(files, total)


def _place(
    member: Member, reader: TarReader, target: tree.Tree, limits: Limits, *, sync: bool
) -> None:
    parts = _parts(member.name, limits, member)
    if member.kind == tar.FOLDER:
        target.folder(parts)  # stated twice is harmless: nothing but its existence is taken from it
        return
    if not parts or member.name.endswith(b"/"):
        raise ArchiveRefused("a file or link needs a name", tar.shown(member.name))
    if member.kind == tar.FILE:
        target.file(parts, reader.content(), mode=member.mode, mtime=member.mtime, sync=sync)
    elif member.kind == tar.SYMLINK:
        _check_symlink(member, depth=len(parts) - 1)
        target.symlink(parts, member.link)
    else:
        existing = _parts(member.link, limits, member)
        if not existing:
            raise ArchiveRefused("a hard link to nothing", tar.shown(member.name))
        target.hard_link(parts, existing)


def _parts(path: bytes, limits: Limits, member: Member) -> list[bytes]:
    """The path as the names on the way from the root, which has none."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.startswith(b"/"):
        reason = "the path is absolute"
    elif b".." in parts:
        reason = "the path leads out of the folder ('..')"
    elif b"\0" in path:
        reason = "the path contains a null character"
    elif len(path) > limits.path_bytes:
        reason = f"the path is longer than {limits.path_bytes} bytes"
    elif any(len(part) > limits.name_bytes for part in parts):
        reason = f"a name in the path is longer than {limits.name_bytes} bytes"
    elif len(parts) > limits.depth:
        reason = f"the path is deeper than {limits.depth} folders"
    elif parts and parts[0] == os.fsencode(tree.LOST_AND_FOUND):
        reason = "'lost+found' at the top belongs to the file system"
    else:
        return parts
    raise ArchiveRefused(reason, tar.shown(member.name))


def _check_symlink(member: Member, depth: int) -> None:
    """Refuses a target that could lead out of the tree, whatever other links the archive makes.

    Counting '..' against the text of a path is not enough: behind another link, `a/b/..` need not
    be `a`. So '..' is allowed only at the start, where the folders above are known to be real;
    names that follow lead to something below, or to a link for which the same holds.
    """
    parts = [part for part in member.link.split(b"/") if part not in (b"", b".")]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    if not member.link or b"\0" in member.link or len(member.link) >= 4096:
        reason = "the link's target is empty, too long, or contains a null character"
    elif member.link.startswith(b"/"):
        reason = "the link's target is absolute"
    elif up > depth:
        reason = "the link's target is outside the folder"
    elif b".." in parts[up:]:
        reason = "the link's target has '..' behind a name"
    else:
        return
    raise ArchiveRefused(reason, tar.shown(member.name))
